"""Tests of the building blocks of messages."""

import pytest

from common.text import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3599, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (86_300, "1 d 0 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration_has_its_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
