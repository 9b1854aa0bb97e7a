"""Tests of the duplicate counts."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from labeler.inspection.duplicates import MAX_DESCRIBED_GROUPS, MAX_SOURCES_PER_GROUP, count_duplicates
from labeler.inspection.shard_statistics import ROW_DTYPE


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=60))
def test_duplicate_counts_match_a_simple_implementation(images: list[tuple[int, int]]) -> None:
    rows = np.zeros(len(images), ROW_DTYPE)
    rows["digest"] = [
        bytes([7, digest, 0]) for digest, _ in images
    ]  # NumPy drops trailing zeros of S16, which must not matter
    rows["class"] = [index for _, index in images]
    groups: dict[int, list[int]] = defaultdict(list)
    for position, (digest, _) in enumerate(images):
        groups[digest].append(position)
    repeated = sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
    across = [group for group in repeated if len({images[position][1] for position in group}) > 1]
    counts, largest = count_duplicates(rows)
    assert counts == {
        "groups": len(repeated),
        "surplus": sum(map(len, repeated)) - len(repeated),
        "groups_across_classes": len(across),
        "images_across_classes": sum(map(len, across)),
    }
    described = [(len(group), group[:MAX_SOURCES_PER_GROUP]) for group in repeated[:MAX_DESCRIBED_GROUPS]]
    assert [tuple(group) for group in largest] == described
