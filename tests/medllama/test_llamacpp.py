"""The one binding to llama.cpp: figures that repeat, errors that say why, and nothing that ends the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from convert.config import FILE_TYPES
from medllama.errors import InputError
from medllama.llamacpp import BatchToken, Context, LlamaCppError, Model, Sampler, captured_log
from medllama.llamacpp.quantizer import quantize

PROMPT = [1, *range(300, 340)]


@pytest.fixture(scope="module")
def model(llama2_gguf: Path) -> Iterator[Model]:
    with Model(llama2_gguf, threads=1) as loaded:
        yield loaded


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, context_tokens=128) as made:
        yield made


def test_logits_repeat_to_the_bit(model: Model, context: Context) -> None:
    first = context.logits(PROMPT)
    assert first.shape == (len(PROMPT), model.n_vocab)
    assert first.dtype == numpy.float32
    context.logits(PROMPT[:7])
    assert numpy.array_equal(context.logits(PROMPT), first), "in the same context, whatever was in it before"
    with Context(model, context_tokens=128) as other:
        assert numpy.array_equal(other.logits(PROMPT), first), "and in a new one"


def test_nothing_to_decode_has_no_logits(model: Model, context: Context) -> None:
    assert context.logits([]).shape == (0, model.n_vocab)


@pytest.mark.parametrize("batch_tokens", [1, 7, 16, 40])
def test_an_f32_prompt_may_be_split_into_any_batches(model: Model, context: Context, batch_tokens: int) -> None:
    """Float32 sums in another order: about 1e-6 of logits of size 1. A wrong position or mask moves them by 0.1 and more."""
    with Context(model, context_tokens=128, batch_tokens=batch_tokens) as split:
        assert numpy.abs(split.logits(PROMPT) - context.logits(PROMPT)).max() < 1e-4
    moved = context.logits([PROMPT[1], PROMPT[0], *PROMPT[2:]])
    assert numpy.abs(moved - context.logits(PROMPT))[2:].max() > 0.05


def test_only_the_last_row_is_computed_where_only_it_is_wanted(context: Context) -> None:
    whole = context.logits(PROMPT)
    context.clear()
    (last,) = context.decode(PROMPT, start=0, every=False)
    assert last.shape == (1, whole.shape[1])
    assert numpy.abs(last[0] - whole[-1]).max() < 1e-5


def test_a_continuation_sees_what_came_before_it(context: Context) -> None:
    whole = context.logits(PROMPT)
    context.clear()
    list(context.decode(PROMPT[:30], start=0))
    (rest,) = context.decode(PROMPT[30:], start=30)
    assert numpy.abs(rest - whole[30:]).max() < 1e-4


def test_sequences_share_a_prefix_and_do_not_see_each_other(model: Model) -> None:
    endings = ([341, 342], [343, 344])
    with Context(model, context_tokens=128, sequences=2) as context:
        tokens = [BatchToken(token, place, (0, 1), False) for place, token in enumerate(PROMPT)]
        for number, ending in enumerate(endings):
            tokens += [BatchToken(token, len(PROMPT) + place, (number,), True) for place, token in enumerate(ending)]
        (together,) = context.decode_batch(tokens)
    with Context(model, context_tokens=128) as alone:
        for number, ending in enumerate(endings):
            expected = alone.logits([*PROMPT, *ending])[-2:]
            assert numpy.abs(together[2 * number : 2 * number + 2] - expected).max() < 1e-4


def test_too_many_tokens_for_a_context_are_refused(context: Context) -> None:
    with pytest.raises(InputError, match="129 tokens do not fit a context of 128"):
        context.logits([1] * 129)


@pytest.mark.parametrize("token", [-1, 512, 99999])
def test_a_token_that_does_not_exist_is_an_error_and_not_the_end_of_the_process(
    model: Model, context: Context, token: int
) -> None:
    with pytest.raises(LlamaCppError, match="could not decode"):
        context.logits([1, token])
    with pytest.raises(InputError, match=f"has no token {token}"):
        model.piece(token)


def test_greedy_takes_the_most_likely_token_each_time(model: Model, context: Context) -> None:
    generated = context.greedy(PROMPT[:5], 12)
    assert len(generated) == 12
    expected = list(PROMPT[:5])
    for token in generated:
        assert token == int(context.logits(expected)[-1].argmax())
        assert not model.is_end(token)
        expected.append(token)


def test_greedy_stops_where_the_context_or_the_answer_ends(
    model: Model, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = context.greedy(PROMPT, 1000)
    assert len(PROMPT) + len(generated) == 128 + 1, "the last token need not be decoded"
    monkeypatch.setattr(Model, "is_end", lambda self, token: token == generated[3])
    assert context.greedy(PROMPT, 1000) == generated[: generated.index(generated[3])]
    with pytest.raises(InputError, match="no token to continue from"):
        context.greedy([], 1)


def drawn(context: Context, **settings: Any) -> list[int]:
    """200 tokens drawn after the prompt."""
    context.logits(PROMPT)
    with Sampler(**settings) as sampler:
        return [sampler.sample(context) for _ in range(200)]


def test_a_token_is_the_likeliest_or_drawn_by_its_probability_with_a_seed(context: Context) -> None:
    logits = context.logits(PROMPT)[-1].astype(numpy.float64)
    order = numpy.argsort(-logits)
    assert set(drawn(context)) == {order[0]}
    one, again, other = (drawn(context, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    shares = numpy.exp(logits - logits.max())
    shares /= shares.sum()
    assert numpy.mean(shares[one]) == pytest.approx(float((shares**2).sum()), rel=0.5), "drawn by probability"
    kept = int(numpy.searchsorted(numpy.cumsum(shares[order]), 0.1)) + 1
    assert set(drawn(context, temperature=1.0, top_p=0.1, seed=1)) <= set(order[:kept].tolist())
    assert not set(one) <= set(order[:kept].tolist())
    assert set(drawn(context, temperature=0.01, seed=1)) <= set(order[:2].tolist()), "cold is nearly greedy"


def test_a_truncated_cache_is_as_if_the_rest_had_never_been(model: Model, context: Context) -> None:
    whole = context.logits(PROMPT)
    context.truncate(10)
    (rest,) = context.decode(PROMPT[10:], start=10)
    assert numpy.abs(rest - whole[10:]).max() < 1e-4


def test_the_size_of_the_cache_follows_from_the_shape(model: Model) -> None:
    layers, heads, head_size = 2, 2, 256 // 4  # tests/checkpoints.py
    assert model.cache_bytes_per_token == layers * 2 * heads * head_size * 2


def test_the_tokens_that_end_generation(llama2_words: Model, llama3_words: Model) -> None:
    assert [token for token in range(llama2_words.n_vocab) if llama2_words.is_end(token)] == [2]
    ends = {llama3_words.detokenize([token], show_control=True) for token in range(384) if llama3_words.is_end(token)}
    assert ends == {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
    assert (llama2_words.bos_id, llama2_words.eos_id, llama2_words.add_bos) == (1, 2, True)


def test_metadata_is_read_by_key(llama2_words: Model) -> None:
    assert llama2_words.metadata("general.architecture") == "llama"
    assert llama2_words.metadata("no.such.key") is None
    assert (llama2_words.chat_template or "").startswith("{%- set ns")
    assert llama2_words.n_vocab == 512


def test_the_context_that_a_model_was_made_for_is_known(model: Model) -> None:
    assert model.n_ctx_train == 512


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "failed to read magic"), (b"GGUF", "failed to read header"), (b"not a GGUF at all" * 9, "invalid magic")],
)
def test_what_llama_cpp_says_is_the_reason_of_the_error_and_not_sprayed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(LlamaCppError, match=reason) as caught:
        Model(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_reason_is_what_was_wrong_first(llama2_gguf: Path, tmp_path: Path, context: Context) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(llama2_gguf.read_bytes().replace(b"output_norm.weight", b"output_morn.weight"))
    with pytest.raises(LlamaCppError, match=r"tensor 'output_norm\.weight' not found"):
        Model(path)
    with pytest.raises(LlamaCppError, match="requires an importance matrix"):
        quantize(llama2_gguf, tmp_path / "q.gguf", FILE_TYPES["IQ2_XXS"])
    with pytest.raises(LlamaCppError, match=r"invalid token\[1\] = 99999"):
        context.logits([1, 99999])


def test_loading_computing_and_quantizing_say_nothing(
    llama2_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Model(llama2_gguf) as model, Context(model, context_tokens=64) as context:
        context.greedy([1, 300], 3)
    with captured_log() as log:
        quantize(llama2_gguf, tmp_path / "q.gguf", FILE_TYPES["Q8_0"])
    assert tuple(capfd.readouterr()) == ("", "")
    assert "quant size" in "".join(log), "it is kept"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.gguf does not exist"):
        Model(tmp_path / "no.gguf")


def test_an_adapter_that_is_none_is_refused(model: Model, llama2_gguf: Path) -> None:
    with pytest.raises(LlamaCppError, match="cannot apply") as caught:
        model.load_adapter(llama2_gguf)
    assert caught.value.hint == "is it an adapter of this base?"
