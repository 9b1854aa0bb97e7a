"""Packed hashes: their distances are those of the hexadecimal ones, and mirroring inverts two of their words."""

import itertools

import numpy as np
import pdqhash
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from labeler.near_duplicates import hashes
from labeler.near_duplicates.hashes import pack_hashes
from tests.support.jobs import ROOT

PHOTOGRAPHS = sorted((ROOT / "common/images/check_photographs").glob("*.jpg"))


def count_bits(words: np.ndarray) -> list[int]:
    return np.bitwise_count(words).tolist()


def compute_reference(image: Image.Image) -> str:
    """Return pdqhash's hash of an image in hexadecimal."""
    bits = pdqhash.compute(np.array(image.convert("RGB")))[0]
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


def test_distances_of_packed_hashes_are_those_of_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "HASHES_AT_ONCE", 3)
    generator = np.random.default_rng(0)
    texts = [generator.bytes(32).hex() for _ in range(7)]
    words = pack_hashes(pa.chunked_array([texts[:5], texts[5:]]))
    assert (words.shape, words.dtype) == ((7, 4), np.uint64)
    for text, other in itertools.pairwise(texts):
        expected = (int(text, 16) ^ int(other, 16)).bit_count()
        first, second = words[texts.index(text)], words[texts.index(other)]
        assert sum(count_bits(first ^ second)) == expected


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_mirroring_inverts_the_last_two_words(photograph: object) -> None:
    assert hasattr(photograph, "open")
    image = Image.open(photograph).convert("RGB").resize((512, 512))
    words = pack_hashes(pa.chunked_array([[compute_reference(image), compute_reference(ImageOps.mirror(image))]]))
    even, even_too, odd, odd_too = count_bits(words[0] ^ words[1])
    assert even + even_too <= 12
    assert odd + odd_too >= 128 - 24


def test_first_word_has_the_lowest_even_frequencies_along_x() -> None:
    def place(along_y: int, along_x: int) -> int:
        """Return the word that has the bit of a coefficient, by its frequencies in half periods."""
        code = 1 << (16 * (along_y - 1) + along_x - 1)
        [words] = pack_hashes(pa.chunked_array([[f"{code:064x}"]]))
        return count_bits(words).index(1)

    assert {place(1, 2), place(2, 2), place(8, 8), place(11, 2)} == {0}
    assert {place(16, 2), place(2, 16), place(16, 16)} == {1}
    assert {place(1, 1), place(16, 1), place(1, 15), place(16, 15)} == {2, 3}


@pytest.mark.parametrize("wrong", ["0f" * 31, "0f" * 33, "xy" * 32])
def test_other_values_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        pack_hashes(pa.chunked_array([["0f" * 32, wrong]]))
