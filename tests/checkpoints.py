"""Small random Llama checkpoints as they lie on people's disks, of both tokenizer families, made in a second.

    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1)

The weights are random but seeded, and strong enough that two tokens never tie; norms are not all ones, biases not zero. Rows
are a multiple of 256, the block of llama.cpp's K-quants. The tokenizers are trained on sentences written here. The same call
gives the same bytes.
"""

from __future__ import annotations

import functools
import io
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from medllama.vocabulary import LLAMA3_PATTERN

LLAMA2_VOCABULARY_SIZE = 512
LLAMA3_SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
LLAMA3_PLAIN_TOKENS = 375  # with the special tokens 384

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def make_llama2_checkpoint(
    folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, tokenizer_model: bool = True, **overrides: Any
) -> Path:
    """A Llama 2 checkpoint: SentencePiece with byte fallback, ids 0 to 2 are <unk>, <s> and </s>, no pad token.

    `tokenizer_model=False` leaves only the tokenizer.json that Transformers makes of it. `overrides` go to LlamaConfig.
    """
    config = LlamaConfig(
        **{"vocab_size": LLAMA2_VOCABULARY_SIZE, "bos_token_id": 1, "eos_token_id": 2} | SHAPE | overrides
    )
    _save_model(config, folder, dtype, seed)
    (folder / "tokenizer.model").write_bytes(_sentencepiece_model())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": config.max_position_embeddings,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    if not tokenizer_model:
        LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
        (folder / "tokenizer.model").unlink()
    return folder


def make_llama3_checkpoint(
    folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> Path:
    """A Llama 3 checkpoint: byte-level BPE in tokenizer.json, the special tokens at the end, "llama3" RoPE scaling."""
    first_special = LLAMA3_PLAIN_TOKENS
    config = LlamaConfig(
        **{
            "vocab_size": first_special + len(LLAMA3_SPECIAL_TOKENS),
            "bos_token_id": first_special,
            "eos_token_id": first_special + 1,
            "rope_parameters": dict(LLAMA3_ROPE),
        }
        | SHAPE
        | overrides
    )
    _save_model(config, folder, dtype, seed)
    (folder / "tokenizer.json").write_text(_byte_level_tokenizer(), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": config.max_position_embeddings,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    return folder


def _save_model(config: LlamaConfig, folder: Path, dtype: torch.dtype, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.data += 0.1 * torch.randn_like(weight)
            if name.endswith(".bias"):  # zeros would hide a bias in the wrong order
                weight.data += 0.1 * torch.randn_like(weight)
    model.to(dtype).save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, do_sample=False
    ).save_pretrained(folder)


@functools.cache
def _sentencepiece_model() -> bytes:
    """Llama 2's settings: BPE, byte fallback, digits apart, nothing normalized."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        model_type="bpe",
        vocab_size=LLAMA2_VOCABULARY_SIZE,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def _byte_level_tokenizer() -> str:
    """The tokenizer.json of Llama 3 in small: its pattern, ignore_merges, BOS before every text."""
    backend = Backend(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=LLAMA3_PLAIN_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(sentences(), trainer)
    assert backend.get_vocab_size() == LLAMA3_PLAIN_TOKENS, "the sentences are too few for this vocabulary"
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in LLAMA3_SPECIAL_TOKENS])
    bos = LLAMA3_SPECIAL_TOKENS[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, LLAMA3_PLAIN_TOKENS)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend.to_str(pretty=True)


def sentences() -> list[str]:
    """Some three hundred sentences and questions: what the tokenizers are trained on, and material for records."""
    conditions = ("asthma", "anemia", "gout", "measles", "malaria", "scurvy", "rickets", "tetanus", "angina", "eczema")
    organs = ("the lungs", "the blood", "the joints", "the skin", "the liver", "the bones", "the nerves", "the heart")
    drugs = ("aspirin", "insulin", "heparin", "digoxin", "morphine", "warfarin", "metformin", "lithium", "quinine")
    said = []
    for name in conditions:
        for organ in organs:
            said.append(f"{name.capitalize()} is a disorder that affects {organ}.")
            said.append(f"<<SYS>>\nYou answer briefly.\n<</SYS>>\n\nWhat does {name} do to {organ}?")
        for drug in drugs:
            said.append(f"{drug.capitalize()} is given by mouth, 25 mg twice daily, in {name}.")
            said.append(f"[INST] Is {drug} a treatment of {name}? [/INST] Yes, where a doctor says so. ")
    return said


def made_up_words(seed: int = 0) -> list[str]:
    """Words that no tokenizer was trained on: their pieces can be merged in more than one order."""
    generator = random.Random(seed)
    return ["".join(generator.choices("acdefhilmnorstu", k=8)) for _ in range(200)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
