"""The plots' words can be read: of many files close together, no name covers another."""

from __future__ import annotations

import itertools
import re
from typing import Any

from report.plots import size_against_quality

SIZES = {
    "Q2_K": (2.53, 0.31), "Q3_K_M": (3.3, 0.09), "Q4_K_S": (3.86, 0.045), "Q4_K_M": (4.08, 0.034), "Q5_K_S": (4.65, 0.014),
    "Q5_K_M": (4.78, 0.012), "Q6_K": (5.53, 0.004), "Q8_0": (7.16, 0.0006), "F16": (13.5, None),
}  # fmt: skip
CARD: dict[str, Any] = {
    "reference": "m-F16.gguf",
    "files": [
        {
            "type": kind,
            "bytes": round(gigabytes * 1e9),
            "against_reference": None if kld is None else {"kld": {"mean": kld, "standard_error": 0.001}},
        }
        for kind, (gigabytes, kld) in SIZES.items()
    ],
}


def test_no_files_name_covers_another() -> None:
    svg = size_against_quality(CARD)
    places = {
        name: tuple(map(float, match.groups()))
        for name in SIZES
        if (match := re.search(rf"translate\(([\d.]+) ([\d.]+)\)[^>]*>{name}</text>", svg))
        or (match := re.search(rf'x="([\d.]+)" y="([\d.]+)"[^>]*>{name}</text>', svg))
    }
    assert places.keys() == SIZES.keys()
    for (one, (x, y)), (other, (x_other, y_other)) in itertools.combinations(places.items(), 2):
        left = one if x < x_other else other
        is_beside = abs(x - x_other) >= 6 * len(left)  # points: a letter of 12 points is 6 to 8 wide
        assert is_beside or abs(y - y_other) >= 11, (one, other)
    assert all(0 < y < 220 for _, y in places.values())
