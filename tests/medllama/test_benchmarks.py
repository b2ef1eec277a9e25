"""What `cop` of MedMCQA counts from is told by its values, by its origin where they cannot tell, and never by a guess in silence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from medllama.benchmarks import first_of_cop


@pytest.mark.parametrize(
    ("values", "first"),
    [((1, 4, 2), 1), ((0, 3), 0), (("1", "4"), 1), ((" 0", "2"), 0), ((4, -1, None, "", True, [0], "²", 1.0), 1)],
)
@pytest.mark.parametrize("is_hub", [True, False, None])
def test_the_values_tell_whatever_the_origin(
    values: Sequence[object], first: int, is_hub: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_of_cop(values, "dev.json", is_hub=is_hub) == first
    assert capsys.readouterr().err == ""


def test_where_no_value_tells_the_origin_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert first_of_cop((1, 2, 3), "openlifescienceai/medmcqa", is_hub=True) == 0
    assert capsys.readouterr().err == ""
    assert first_of_cop((1, 2, 3), "dev.json", is_hub=False) == 1
    assert "warning: dev.json: cop is neither 0 nor 4 anywhere" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not told whether it counts from 0"):
        first_of_cop((1, 2, 3), "dev.json")


def test_a_file_without_answers_needs_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    first_of_cop((None, -1, ""), "test.json", is_hub=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_hub", [True, False, None])
@pytest.mark.parametrize("values", [(0, 4), ("4", 1, "0")])
def test_values_of_both_are_refused(values: Sequence[object], is_hub: bool | None) -> None:
    with pytest.raises(ValueError, match="cop runs from 0 to 4"):
        first_of_cop(values, "dev.json", is_hub=is_hub)
