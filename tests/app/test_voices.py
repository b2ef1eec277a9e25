"""Several models at once: side by side, on the same weights, in turn where memory is short, and without one that is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from app.conversation import Answer, Sampling, Voice, one_after_another, side_by_side
from app.voices import VoiceInTurn, Voices, distinct, open_voices
from convert.config import ConvertConfig
from convert.convert import convert
from medllama.errors import InputError, ResourceError
from medllama.llamacpp import LlamaCppError, Model

QUESTION = [{"role": "user", "content": "What does gout do to the joints?"}]
SHORT = Sampling(max_tokens=24)


def answers_of(voices: Voices) -> list[Answer]:
    """What they say to QUESTION."""
    together = one_after_another if voices.take_turns else side_by_side
    *_, answers = together([voice.answer(QUESTION, SHORT) for voice in voices])
    return answers


def test_an_adapter_is_a_second_voice_on_the_same_weights(random_ggufs: dict[str, Path]) -> None:
    def answers(paths: list[Path], adapter: Path | None = None) -> list[Answer]:
        with open_voices(paths, adapter=adapter, context_tokens=256, threads=1) as voices:
            assert len({voice.model for voice in voices if isinstance(voice, Voice)}) == len(paths)
            return answers_of(voices)

    base, merged = answers([random_ggufs["base"], random_ggufs["merged"]])
    plain, adapted = answers([random_ggufs["base"]], random_ggufs["adapter"])
    assert (plain.text, adapted.text) == (base.text, merged.text)
    assert base.text != merged.text


def with_memory(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """A machine with so much free memory."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=free_bytes))


def test_models_that_do_not_fit_together_take_turns_and_answer_the_same(
    random_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [random_ggufs["base"], random_ggufs["merged"]]
    with open_voices(paths, context_tokens=256, threads=1) as voices:
        assert not voices.take_turns
        together = answers_of(voices)
        prompt = voices[1].read(QUESTION)
    opened: list[Path] = []
    closed: list[Path] = []
    real_open, real_close = Model.__init__, Model.close

    def opening(self: Model, path: Path, **given: Any) -> None:
        real_open(self, path, **given)
        if not given.get("vocab_only"):
            opened.append(path)
            assert len(opened) - len(closed) == 1, "one model in memory at a time"

    def closing(self: Model) -> None:
        if self.path in opened and self.threads == 1:
            closed.append(self.path)
        real_close(self)

    with_memory(monkeypatch, int(paths[0].stat().st_size * 1.5))
    monkeypatch.setattr(Model, "__init__", opening)
    monkeypatch.setattr(Model, "close", closing)
    with open_voices(paths, context_tokens=256, threads=1) as voices:
        assert voices.take_turns
        assert all(isinstance(voice, VoiceInTurn) for voice in voices)
        assert voices[1].read(QUESTION) == prompt
        assert opened == [], "the prompt needs no weights"
        assert [it.text for it in answers_of(voices)] == [it.text for it in together]
        assert [it.text for it in answers_of(voices)] == [it.text for it in together]
    assert opened == paths * 2
    monkeypatch.undo()


def test_a_file_that_goes_away_between_two_turns_is_named(
    random_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(random_ggufs["base"].read_bytes())
    with_memory(monkeypatch, int(copy.stat().st_size * 1.5))
    with open_voices([random_ggufs["base"], copy], context_tokens=256, threads=1) as voices:
        copy.unlink()
        with pytest.raises(InputError, match=r"copy\.gguf is no longer there"):
            next(voices[1].answer(QUESTION, SHORT))
        assert next(voices[0].answer(QUESTION, SHORT)).tokens == 1


def test_one_model_that_is_missing_says_so_and_the_others_answer(random_ggufs: dict[str, Path], tmp_path: Path) -> None:
    paths = [tmp_path / "no.gguf", random_ggufs["base"]]
    with open_voices(paths, context_tokens=256, threads=1, may_be_missing=True) as voices:
        missing, base = answers_of(voices)
        assert (missing.stop, missing.text) == ("failed", "")
        assert missing.error == f"{tmp_path}/no.gguf does not exist. Hint: medllama convert makes GGUF files."
        assert base.tokens > 0
        assert [voice.name for voice in voices] == ["no", "base-F32"]
    with pytest.raises(InputError, match="does not exist"), open_voices(paths, context_tokens=256):
        pass
    with pytest.raises(InputError), open_voices([tmp_path / "no.gguf"], context_tokens=256, may_be_missing=True):
        pass


def test_one_model_that_llama_cpp_refuses_says_so_and_the_others_answer(
    random_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Model.__init__

    def refusing(self: Model, path: Path, **given: Any) -> None:
        if path == random_ggufs["merged"]:
            raise LlamaCppError("refused by the test", hint="verify it")
        real(self, path, **given)

    monkeypatch.setattr(Model, "__init__", refusing)
    paths = [random_ggufs["base"], random_ggufs["merged"]]
    with open_voices(paths, context_tokens=256, threads=1, may_be_missing=True) as voices:
        base, refused = answers_of(voices)
        assert (base.tokens > 0, refused.error) == (True, "Refused by the test. Hint: verify it.")
    with pytest.raises(LlamaCppError), open_voices(paths, context_tokens=256, threads=1):
        pass


def test_no_two_voices_are_called_the_same() -> None:
    assert distinct(["a", "b", "a", "a", "a-2"]) == ["a", "b", "a-2", "a-3", "a-2-2"]


def test_what_cannot_be_asked_is_told(
    base: Path, random_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, error: type[Exception], text: str, **given: Any) -> None:
        with pytest.raises(error, match=text), open_voices([path], context_tokens=256, **given):
            pass

    fails(tmp_path / "no.gguf", InputError, r"no\.gguf does not exist")
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    fails(tmp_path / "text.gguf", InputError, r"text\.gguf is no GGUF")
    silent = ConvertConfig(str(base), tmp_path, types=("F32",), name="silent", chat_template="none")
    convert(silent)
    fails(silent.gguf_paths()[0], InputError, "has no chat template, so nothing can be asked of it")
    fails(random_ggufs["base"], InputError, "does not exist", adapter=tmp_path / "no.gguf")
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1_000_000))
    fails(random_ggufs["base"], ResourceError, r"the models: [\d.]+ MB of memory are needed, 1\.0 MB are free")
    free = iter([memory.available, 1000])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=next(free)))
    fails(random_ggufs["base"], ResourceError, "the cache of base-F32 for 256 tokens: ")
