"""Reading single samples of a labeling by ranges of its shards, without reading the whole shards."""

import io

import numpy as np

from common.errors import describe_error
from common.shards import Sample, read_samples
from common.storage import open_storage
from labeler.comparison.labeling import LabelingFiles
from labeler.inspection.shard_statistics import DIGEST_DIGITS


class SampleReader:
    """Reader of single samples of a labeling, by ranges of its shards. Threads may share it."""

    def __init__(self, files: LabelingFiles) -> None:
        self.files = files
        self._storage = open_storage(files.location)

    def read(self, row: np.void, with_image: bool = False) -> Sample:
        """Read the sample of a row, without its image (and class index) unless asked for.

        Raises ValueError, OSError or UserError if it is damaged, or not the sample that the row describes.
        """
        start = int(row["start" if with_image else "labels"])
        content = self._storage.read_range(self.files.shards[row["shard"]], start, int(row["stop"]) - start)
        try:
            [(key, members)] = read_samples(io.BytesIO(content))
            sample = Sample.from_members(key, members)
        except Exception as error:  # tarfile, Pillow and NumPy raise many types of exception for damaged bytes
            raise ValueError(f"no sample at byte {start}: {describe_error(error)}") from None
        if bytes.fromhex(sample.info.source_sha256[:DIGEST_DIGITS]) != row["digest"].ljust(16, b"\0"):
            raise ValueError(f"another sample than expected at byte {start}: the shard has changed")
        side, gaze = self.files.map_size, sample.gaze
        if sample.attention.shape != (side, side):
            raise ValueError(f"sample {key} has a map of shape {sample.attention.shape}, expected {side} x {side}")
        if gaze.ndim != 2 or gaze.shape[1] != 3 or not ((gaze >= 0) & (gaze <= 1)).all():
            raise ValueError(f"sample {key} has points {gaze.shape}, expected [n, 3] in [0, 1]")
        return sample
