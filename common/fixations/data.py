"""Images with human fixations, in one representation for all file formats."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ImageFailure, UserError, describe_error

if TYPE_CHECKING:
    from torch import Tensor

SALICON_SIGMA = 19 / 640  # standard deviation of SALICON's Gaussian blur, as a fraction of the map's width


@dataclass(frozen=True, eq=False)
class FixatedImage:
    """An image file and the fixations recorded on it. Pixels and attention maps are computed on request only.

    `fixations` is float32 [n, 2] with n > 0, in the order of the files: x and y as fractions of width and height, in
    (0, 1), in the frame of the stored pixels (EXIF orientation ignored). The center of pixel i is at (i + 0.5) / size.
    For mouse trajectories these are the distinct pixels that each subject visited.
    `subjects` is int32 [n]: equal numbers within an image mean the same person.
    `durations` is float32 [n] in milliseconds, NaN where unknown.
    """

    name: str  # path relative to the folder of images; unique in its data set
    path: Path
    width: int
    height: int
    fixations: np.ndarray
    subjects: np.ndarray
    durations: np.ndarray | None = None
    split: str = ""  # "train", "val" or "test" if the data set has splits
    map_path: Path | None = None  # attention map published with the data set, of the same size as the image

    def pixels(self) -> "Tensor":
        """Decode the image to uint8 [3, height, width]. Raises UserError if it cannot be read."""
        from common.images import read_photograph  # importing torch takes seconds

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
        """Return the fixations as a blurred map, float32 [height, width].

        `sigma` is the standard deviation of the Gaussian in pixels of that map; by default that of SALICON, 19 pixels
        at a width of 640.
        """
        from common.fixations.maps import blur_fixations  # importing torch takes seconds

        return blur_fixations(self.fixations, height, width, SALICON_SIGMA * width if sigma is None else sigma)


class FixationData(NamedTuple):
    """A data set of human fixations: its images, sorted by name, and what was excluded from it.

    `excluded` counts the excluded images or fixations by reason (see `common.fixations.exclusions`). `first_excluded`
    names the first affected images by reason, for reasons that indicate faulty data.
    """

    images: list[FixatedImage]
    excluded: Counter[str]
    first_excluded: Mapping[str, Sequence[str]]
