"""A photograph with the places that people looked at, whatever the format that it came in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ImageFailure, UserError, describe_error

if TYPE_CHECKING:
    from torch import Tensor

SALICON_SIGMA = 19 / 640  # of the Gaussian that blurs fixations, as a part of the map's width


@dataclass(frozen=True, eq=False)
class FixatedImage:
    """A photograph and where people looked at it. Its pixels are read, and its map is made, when asked for.

    `fixations` is float32 [n, 2], n > 0: x and y in (0, 1) of the stored frame (EXIF ignored), pixel centres at
    (i + 0.5) / size; in the order of the files. Of mouse trajectories these are each subject's unique
    pixels. `subjects` is int32 [n]: one number, one person, in this image at least. `durations` is float32 [n],
    milliseconds, NaN where unknown.
    """

    name: str  # path relative to the folder of images; unique in its data set
    path: Path
    width: int
    height: int
    fixations: np.ndarray
    subjects: np.ndarray
    durations: np.ndarray | None = None
    split: str = ""  # "train", "val", ... where the data set has splits
    map_path: Path | None = None  # the map that the data set itself gives, of the image's size

    def pixels(self) -> "Tensor":
        """The photograph, uint8 [3, height, width]. Raises UserError where it cannot be read."""
        from common.images import read_photograph  # torch takes seconds to import

        try:
            pixels, _ = read_photograph(self.path.read_bytes(), self.width * self.height, 1)
        except (OSError, ImageFailure) as error:
            raise UserError(f"{self.path}: the image cannot be read: {describe_error(error)}") from None
        if tuple(pixels.shape[1:]) != (self.height, self.width):
            found = f"{pixels.shape[2]} x {pixels.shape[1]}"
            raise UserError(
                f"{self.path}: expected {self.width} x {self.height} pixels, as its header says, not {found}"
            )
        return pixels

    def attention_map(self, height: int, width: int, sigma: float | None = None) -> "Tensor":
        """The fixations as a map [height, width], blurred with `sigma` pixels of that map (SALICON's: 19 at 640)."""
        from common.fixation_maps import blur_fixations

        return blur_fixations(self.fixations, height, width, SALICON_SIGMA * width if sigma is None else sigma)


class FixationData(NamedTuple):
    """A data set of human attention: its images sorted by name, and counts of what was left out, by reason.

    `first` names the first images that a reason is about, where it is a fault.
    """

    images: list[FixatedImage]
    left_out: Counter[str]
    first: Mapping[str, Sequence[str]]


def exclusion_notes(place: str, left_out: Mapping[str, int], first: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader should know of images and fixations that were left out, a sentence a reason."""
    names = {reason: f" (the first: {', '.join(images)})" for reason, images in first.items()}
    return [
        f"Left out of {place}: {count:,} {reason}{names.get(reason, '')}" for reason, count in sorted(left_out.items())
    ]
