"""Which models are judged, on which sides, and what is stored of their files."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import gradio
import pytest

from app.blind_tab import Blind, BlindTab
from app.config import AppConfig
from app.conversation import Answer, Sampling
from app.desk import Desk
from app.engine import Engine
from app.ratings import as_jsonl
from app.render import speakers
from app.voices import MissingVoice, Voices
from medllama.errors import InputError
from tests.app.test_engine import Counting


def tab_of(tmp_path: Path, *voices: Any, **given: Any) -> BlindTab:
    for voice in voices:
        (tmp_path / voice.name).write_text(voice.name)
    config = AppConfig(
        **{"model": tuple(str(tmp_path / it.name) for it in voices), "ratings": tmp_path / "r.sqlite"} | given
    )
    engine = Engine(Voices(voices), max_seconds=1)
    return BlindTab(Desk(engine, config, speakers([it.name for it in voices], has_adapter=bool(config.adapter_gguf))))


def test_every_pair_is_drawn_on_both_sides_about_equally_often(tmp_path: Path) -> None:
    tab = tab_of(tmp_path, *(Counting(name, 1) for name in "abc"))
    drawn = Counter(tab.draw() for _ in range(1200))
    assert set(drawn) == {(one, other) for one in range(3) for other in range(3) if one != other}
    assert min(drawn.values()) > 120, "200 each are expected; fewer than 121 come once in 10^10 times"


def test_what_cannot_be_asked_is_not_drawn(tmp_path: Path) -> None:
    gone = MissingVoice("gone", InputError("gone"))
    tab = tab_of(tmp_path, Counting("a", 1), gone, Counting("c", 1))
    assert {tab.draw() for _ in range(50)} == {(0, 2), (2, 0)}
    with pytest.raises(Exception, match="Only one model can be asked"):
        tab_of(tmp_path, Counting("a", 1), gone).draw()


def test_a_question_is_not_taken_where_it_cannot_be_asked(tmp_path: Path) -> None:
    tab = tab_of(tmp_path, Counting("a", 1), MissingVoice("gone", InputError("gone")))
    request = gradio.Request(session_hash="one")
    with pytest.raises(gradio.Error, match="Only one model can be asked"):
        tab.begin("Gout?", request)
    tab.desk.occupy(request)  # nothing holds the place


def test_half_an_emoji_in_any_field_is_no_reason_to_fail(tmp_path: Path) -> None:
    tab = tab_of(tmp_path, Counting("a", 1), Counting("b", 1))
    answers = (Answer("yes", stop="end"), Answer("no", stop="end"))
    blind = Blind("Gout?", "Be brief \ud83d", Sampling(), (0, 1), answers)
    tab.save(blind, "a", *[None] * 6, "AB\ud83d", "short \ud83d", True)
    assert [(row["rater"], row["comment"]) for row in tab.rows()] == [("AB?", "short ?")]
    assert blind.messages[0]["content"] == "Be brief ?"


def test_ratings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    tab = tab_of(tmp_path, Counting("a", 1), Counting("b", 1))
    (tmp_path / "r.sqlite").write_text("no database " * 100)
    for ask in (lambda: tab.results("everybody"), lambda: tab.export(as_jsonl)):
        with pytest.raises(gradio.Error, match="cannot be used: file is not a database"):
            ask()


def test_an_answer_is_stored_with_the_digests_of_its_files(tmp_path: Path) -> None:
    adapter = tmp_path / "lora.gguf"
    adapter.write_text("adapter")
    base = tmp_path / "base"
    tab = tab_of(tmp_path, Counting("base", 1), Counting("lora", 1), model=(str(base),), adapter_gguf=adapter)
    digest = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, adapter)}
    plain, adapted = (tab.rated(number, Answer("text", tokens=2, stop="end")) for number in (0, 1))
    assert (plain.file, plain.sha256, plain.adapter, plain.adapter_sha256) == (str(base), digest[base], None, None)
    assert (adapted.file, adapted.sha256) == (str(base), digest[base])
    assert (adapted.adapter, adapted.adapter_sha256) == (str(adapter), digest[adapter])
    other = tmp_path / "other"
    other.write_text("base")
    other.replace(base)
    adapter.unlink()
    late = tab.rated(1, Answer("text", tokens=2, stop="end"))
    assert (late.sha256, late.adapter_sha256) == (None, None), "the answer is of the files that were there before"
    served = Counting("base", 1)
    served.digest = "abc"  # type: ignore[attr-defined]
    on_a_server = tab_of(tmp_path, served, Counting("tuned", 1), backend="ollama").rated(0, Answer("text", stop="end"))
    assert on_a_server.sha256 == "abc"
    assert (adapted.model, adapted.context_tokens, adapted.stop, adapted.tokens) == ("lora", 100, "end", 2)
