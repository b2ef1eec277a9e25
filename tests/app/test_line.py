"""The line is fair: first come, first answered, nobody twice before everybody once; and it is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.line import Line, LineFull, Place


def served(line: Line, places: list[Place]) -> list[Place]:
    """The order in which these are answered when nobody else comes."""
    left, order = list(places), []
    while left:
        (turn,) = [place for place in left if line.ahead(place) == 0]
        order.append(turn)
        line.leave(turn)
        left.remove(turn)
    return order


def test_one_is_answered_at_a_time_in_the_order_of_arrival() -> None:
    line = Line()
    places = [line.join(who) for who in "abc"]
    assert [line.ahead(place) for place in places] == [0, 1, 2]
    assert [line.ahead(place) for place in reversed(places)] == [2, 1, 0]
    assert [place.who for place in served(line, places)] == ["a", "b", "c"]
    assert len(line) == 0


def test_nobody_is_answered_twice_before_everybody_once() -> None:
    line = Line()
    places = [line.join(who) for who in "aaabac"]
    assert "".join(place.who for place in served(line, places)) == "abcaaa"


def test_who_waits_is_not_overtaken_forever_by_newcomers() -> None:
    line = Line(most_waiting=5)
    answered, second = line.join("a"), line.join("a")
    overtaken = 0
    assert line.ahead(answered) == 0
    for newcomer in range(20):
        place = line.join(f"newcomer {newcomer}")
        line.leave(answered)
        if line.ahead(second) == 0:
            break
        assert line.ahead(place) == 0
        answered, overtaken = place, overtaken + 1
    assert overtaken == 4, "fewer than can wait"


def test_who_leaves_makes_room_whether_waiting_or_answered() -> None:
    line = Line(most_waiting=2)
    one, other = line.join("a"), line.join("b")
    with pytest.raises(LineFull, match="2 questions are waiting, and no more can"):
        line.join("c")
    line.leave(other)
    line.leave(other)
    third = line.join("c")
    assert (line.ahead(one), line.ahead(third)) == (0, 1)
    line.leave(one)
    assert line.ahead(third) == 0


def test_one_person_cannot_fill_the_line() -> None:
    line = Line(most_of_one=2)
    line.join("a"), line.join("a")
    with pytest.raises(LineFull, match="2 of your questions are waiting"):
        line.join("a")
    line.join("b")


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_everybody_is_answered_once_for_each_question(people: list[str]) -> None:
    line = Line(most_of_one=12)
    order = "".join(place.who for place in served(line, [line.join(who) for who in people]))
    assert sorted(order) == sorted(people)
    firsts = [order.index(who) for who in dict.fromkeys(people)]
    assert firsts == sorted(firsts)
    assert max(firsts) == len(firsts) - 1, "everybody's first question comes before anybody's second"
