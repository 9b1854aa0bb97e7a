"""Sums over samples, for statistics that rows of the index cannot give."""

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from common.manifest import canonical_json
from labeler.publishing.map_measures import CELLS_PER_SIDE


@dataclass
class SampleSums:
    """Sums over samples, for statistics that need no row for each sample."""

    # sum of the maps in each cell: see `sum_by_cell`
    mass: np.ndarray = field(default_factory=lambda: np.zeros((CELLS_PER_SIDE, CELLS_PER_SIDE)))
    points: np.ndarray = field(default_factory=lambda: np.zeros(3))  # x, y and strength of all gaze points
    squares: np.ndarray = field(default_factory=lambda: np.zeros(2))  # squared x and y of all gaze points
    turned: int = 0  # number of images whose EXIF orientation is not upright
    reencoded: Counter[str] = field(default_factory=Counter)  # number of re-encoded images by source format

    def merge(self, other: "SampleSums") -> None:
        """Add the sums over other samples."""
        self.mass += other.mass
        self.points += other.points
        self.squares += other.squares
        self.turned += other.turned
        self.reencoded += other.reencoded

    def to_json(self) -> bytes:
        """Encode the sums, without loss of precision."""
        return canonical_json(
            {
                "mass": self.mass.tolist(),
                "points": self.points.tolist(),
                "squares": self.squares.tolist(),
                "turned": self.turned,
                "reencoded": self.reencoded,
            }
        )

    @classmethod
    def from_json(cls, content: bytes) -> "SampleSums":
        """Decode sums: the inverse of `to_json`. Raises ValueError if the content does not hold sums."""
        try:
            values = json.loads(content)
            sums = cls(
                np.array(values["mass"], float),
                np.array(values["points"], float),
                np.array(values["squares"], float),
                int(values["turned"]),
                Counter(values["reencoded"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected sums over samples: {error}") from None
        if (sums.mass.shape, sums.points.shape, sums.squares.shape) != ((CELLS_PER_SIDE, CELLS_PER_SIDE), (3,), (2,)):
            raise ValueError("sums over samples have a wrong shape")
        return sums
