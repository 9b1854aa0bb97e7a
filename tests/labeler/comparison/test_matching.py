"""Matching of samples, against a dictionary in Python."""

import numpy as np

from labeler.comparison.labeling import ROW_DTYPE
from labeler.comparison.matching import match_samples


def make_rows(images: list[tuple[bytes, bytes]]) -> np.ndarray:
    rows = np.zeros(len(images), ROW_DTYPE)
    rows["digest"], rows["source"] = (list(column) for column in zip(*images, strict=True))
    return rows


def match(a: list[tuple[bytes, bytes]], b: list[tuple[bytes, bytes]]) -> list[tuple[int, int]]:
    return [(int(first), int(second)) for first, second in zip(*match_samples(make_rows(a), make_rows(b)), strict=True)]


def test_images_are_matched_whatever_their_paths() -> None:
    a = [(b"x" * 16, b"1"), (b"y" * 16, b"2"), (b"z" * 16, b"3")]
    b = [(b"z" * 16, b"4"), (b"q" * 16, b"2"), (b"x" * 16, b"5")]
    assert match(a, b) == [(0, 2), (2, 0)]


def test_repeated_images_are_matched_by_their_paths() -> None:
    a = [(b"x" * 16, b"1"), (b"x" * 16, b"2"), (b"y" * 16, b"3")]
    assert match(a, [(b"x" * 16, b"2"), (b"y" * 16, b"9")]) == [(1, 0), (2, 1)]
    assert match([(b"x" * 16, b"2")], a) == [(0, 1)]
    assert match(a, [(b"x" * 16, b"7")]) == []


def test_checksums_that_end_with_zero_bytes_are_distinguished() -> None:
    a = [(b"a" + bytes(15), b"1"), (b"a\0b" + bytes(13), b"2"), (bytes(16), b"3")]
    assert match(a, a[::-1]) == [(0, 2), (1, 1), (2, 0)]


def test_many_random_samples() -> None:
    generator = np.random.default_rng(0)
    sets = [[(generator.integers(0, 400, 16 // 8).tobytes(), b"") for _ in range(800)] for _ in range(2)]
    numbered = [[(digest, f"{index:x}".encode()) for index, (digest, _) in enumerate(images)] for images in sets]
    counts = [{digest: [d for d, _ in images].count(digest) for digest, _ in images} for images in numbered]
    expected = []
    for index, (digest, source) in enumerate(numbered[0]):
        unique = counts[0][digest] == counts[1].get(digest) == 1
        for other, (digest_b, source_b) in enumerate(numbered[1]):
            if digest == digest_b and (unique or source == source_b):
                expected.append((index, other))
    assert match(*numbered) == expected
