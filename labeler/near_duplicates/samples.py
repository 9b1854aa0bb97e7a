"""The samples of candidate pairs, and their images, maps and gaze points, read from the shards."""

import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError, describe_error
from common.images.orientation import to_upright_image
from common.manifest import sha256
from common.shards import decode_map, decode_points
from labeler.near_duplicates.dataset import HashedDataset


class MatchedSample(NamedTuple):
    """A sample that may have near-duplicates: its data set, and its row of the index."""

    dataset: HashedDataset
    row: dict[str, Any]

    @property
    def has_image(self) -> bool:
        """Whether the shard contains the image."""
        return self.row["jpg_offset"] is not None

    def read_image(self, mode: Literal["L", "RGB"], side: int) -> Image.Image:
        """Decode the upright image, smaller if this is quicker but with sides of at least `side` pixels.

        Raises UserError if the shard does not have it where the index says so.
        """
        content = self._read("jpg")
        try:
            if not self.row["reencoded_from"] and sha256(content) != self.row["source_sha256"]:
                raise ValueError("its checksum differs")
            image = Image.open(io.BytesIO(content))
            image.draft(mode, (side, side))
            return to_upright_image(image.convert(mode), self.row["exif_orientation"])
        except (OSError, ValueError) as error:
            raise self._as_user_error(error) from None

    def read_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the attention map, uint8 [S, S], and the gaze points [n, 3]. Raises UserError like `read_image`."""
        try:
            return decode_map(self._read("attn_png")), decode_points(self._read("gaze_npy"))
        except (OSError, ValueError) as error:
            raise self._as_user_error(error) from None

    def _read(self, member: str) -> bytes:
        row = self.row
        return self.dataset.storage.read_range(row["shard"], row[f"{member}_offset"], row[f"{member}_size"])

    def _as_user_error(self, error: Exception) -> UserError:
        location, shard = self.dataset.location, self.row["shard"]
        return UserError(
            f"{location}/{shard}: sample {self.row['key']} is not where the index says ({describe_error(error)}): the "
            f"shard has changed since it was published. python -m labeler.verify {location} checks all files"
        )


def read_samples(positions: np.ndarray, datasets: Sequence[HashedDataset]) -> list[MatchedSample]:
    """Read the rows of the samples at some sorted positions, which count through the hashes of all data sets."""
    samples, start = list[MatchedSample](), 0
    for dataset in datasets:
        inside = positions[(positions >= start) & (positions < start + len(dataset.hashes))] - start
        samples += [MatchedSample(dataset, row) for row in dataset.read_rows(inside).to_pylist()]
        start += len(dataset.hashes)
    return samples
