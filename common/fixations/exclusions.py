"""Reasons for which fixations and images are excluded from a data set, and the messages that report them."""

from collections.abc import Mapping, Sequence

from common.text import pluralize

# Names of the reasons. Results files use them as keys, so they must not change.
OUTSIDE = "fixations outside of their image"
UNPLACED = "fixations without a position"
REPEATED = "trajectory samples at a pixel that the subject had been at before"
MISSING = "images that have fixations but no file"
UNFIXATED = "images without a fixation"
UNREADABLE = "images whose file cannot be read"

_PHRASES = {  # singular noun, and what follows it in a message
    OUTSIDE: ("fixation", "outside of the image"),
    UNPLACED: ("fixation", "without a position"),
    REPEATED: ("trajectory sample", "at a pixel that the subject had already visited"),
    MISSING: ("image", "with fixations but without a file"),
    UNFIXATED: ("image", "without a fixation"),
    UNREADABLE: ("image", "whose file cannot be read"),
}


def describe_exclusion(reason: str, count: int) -> str:
    """Return a phrase such as "3 images without a fixation"."""
    noun, remainder = _PHRASES[reason]
    return f"{pluralize(count, noun)} {remainder}"


def exclusion_notes(data: str, excluded: Mapping[str, int], first_excluded: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each reason for which fixations or images were excluded from the data set named `data`.

    `excluded` and `first_excluded` are those of `FixationData`.
    """
    names = {reason: f" (first: {', '.join(images)})" for reason, images in first_excluded.items()}
    return [
        f"Excluded from {data}: {describe_exclusion(reason, count)}{names.get(reason, '')}"
        for reason, count in sorted(excluded.items())
    ]
