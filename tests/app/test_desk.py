"""What a voice is asked: the conversation as it went with this voice."""

from __future__ import annotations

from app.conversation import Answer
from app.desk import messages
from app.render import Turn


def test_a_voice_reads_its_own_answers_and_none_that_it_did_not_give() -> None:
    nothing, broken = Answer(stop="stopped"), Answer("half an", stop="failed", error="It broke.")
    turns = [
        Turn("One?", "", (Answer("1", stop="end"), Answer("first", stop="stopped"))),
        Turn("Two?", "", (nothing, broken)),
    ]
    for place, said in enumerate(("1", "first")):
        assert messages(turns, place, " Be brief. ", "Three?") == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"},
            {"role": "assistant", "content": said}, {"role": "user", "content": "Three?"},
        ]  # fmt: skip
