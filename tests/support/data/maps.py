"""Attention maps, and the chunks of the PNG that stores one."""

import struct

import numpy as np

from common.fixations.maps import blur_fixations


def smooth_map(size: int) -> np.ndarray:
    """A map of blurred fixations, uint8 [size, size]."""
    points = np.random.default_rng(size).uniform(0.1, 0.9, (20, 2))
    attention = blur_fixations(points, size, size, size / 25)
    return (attention / attention.max() * 255).round().byte().numpy()


def read_chunks(png: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a PNG by type, in order."""
    chunks: dict[bytes, bytes] = {}
    start = 8
    while start < len(png):
        length, name = struct.unpack(">I4s", png[start : start + 8])
        chunks[name] = chunks.get(name, b"") + png[start + 8 : start + 8 + length]
        start += length + 12
    return chunks
