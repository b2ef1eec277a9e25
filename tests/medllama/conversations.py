"""Hypothesis strategies for what people and data sets write: all planes of Unicode, edge white space, digits, control tokens."""

from __future__ import annotations

from hypothesis import strategies as st

# The 4,302 letters and 80 digits that Unicode 16 added. `tokenizers` 0.23 takes them for letters and digits, and llama.cpp's
# tables, which are of Unicode 15.1, do not, so Llama 3's pattern may split a word at them elsewhere. Compared code point
# by code point, the two classify all others alike.
UNICODE_16 = frozenset(
    chr(code)
    for first, last in (
        (0x1C89, 0x1C8A), (0xA7CB, 0xA7CD), (0xA7DA, 0xA7DC), (0x105C0, 0x105F3), (0x10D40, 0x10D49), (0x10D4A, 0x10D65),
        (0x10D6F, 0x10D85), (0x10EC2, 0x10EC4), (0x11380, 0x11389), (0x1138B, 0x1138B), (0x1138E, 0x1138E),
        (0x11390, 0x113B5), (0x113B7, 0x113B7), (0x113D1, 0x113D1), (0x113D3, 0x113D3), (0x116D0, 0x116E3),
        (0x11BC0, 0x11BE0), (0x11BF0, 0x11BF9), (0x13460, 0x143FA), (0x16100, 0x1611D), (0x16130, 0x16139),
        (0x16D40, 0x16D6C), (0x16D70, 0x16D79), (0x18CFF, 0x18CFF), (0x1CCF0, 0x1CCF9), (0x1E5D0, 0x1E5ED),
        (0x1E5F0, 0x1E5F0), (0x1E5F1, 0x1E5FA),
    )
    for code in range(first, last + 1)
)  # fmt: skip
assert len(UNICODE_16) == 4302 + 80
WORDS = (
    "gout", "Asthma", "anemia", "insulin", "is", "a", "25 mg", "1234567", "0.5", "3,000", "it's", "DON'T", "we'Ll", "μg",
    "β-blocker", "Ménière", "naïve", "高血圧", "الصداع", "שלום", "🩺", "👩🏽‍⚕️", "▁", "▁▁", "e\u0301", "\u00a0", "\u200b",
    "\u3000", "\ufeff", "\x00", "[INST]", "[/INST]", "<<SYS>>", "\n", "\n\n", "\r\n", "\t", " ", "  ", "   ", "!", "?!",
    "...", "(", ")", "—", "<", ">", "</", "<|", "|>", "<0x0A>", "s>",
)  # fmt: skip
REAL_VECTORS = {"llama2": "ggml-vocab-llama-spm.gguf", "llama3": "ggml-vocab-llama-bpe.gguf"}  # in tokenizers/vectors
CONTROL_TEXTS = {
    "llama2": ("<s>", "</s>", "<unk>", "<s>[INST]", "</s><s>", "<</s>s>", "<s</s>>"),
    "llama3": (
        "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>system<|end_header_id|>\n\n",
        "<|eot_id|", "<|<|eot_id|>eot_id|>", "<|eot_id|><|start_header_id|>assistant",
    ),
}  # fmt: skip

characters = st.characters(exclude_categories=["Cs"]).filter(lambda character: character not in UNICODE_16)
plain_texts = st.text(characters, max_size=12) | st.lists(
    st.sampled_from(WORDS) | st.text(characters, max_size=3), max_size=8
).map("".join)


def sentences(*words: str) -> st.SearchStrategy[str]:
    """Words with single spaces between them, as most text is."""
    return st.lists(st.sampled_from(words or WORDS), min_size=1, max_size=8).map(" ".join)


texts = plain_texts | sentences()


def conversations(
    contents: st.SearchStrategy[str] = texts, answers: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[list[dict[str, str]]]:
    """A system message or none, then one to four questions, each but perhaps the last one answered."""
    answers = contents if answers is None else answers
    system = st.lists(contents.map(lambda text: {"role": "system", "content": text}), max_size=1)
    turn = st.tuples(contents, answers).map(
        lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    )
    turns = st.lists(turn, min_size=1, max_size=4).map(lambda pairs: [message for pair in pairs for message in pair])
    return st.tuples(system, turns, st.booleans()).map(
        lambda parts: parts[0] + (parts[1] if parts[2] else parts[1][:-1])
    )
