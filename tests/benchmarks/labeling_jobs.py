"""Labeling jobs for benchmarks: their photographs, and the rate that the records of their shards show."""

import json
import math
from pathlib import Path


def repeat_photographs(photographs: Path, folder: Path, images: int) -> Path:
    """Fill a folder with links to the photographs until it contains at least `images` images. Returns the folder."""
    folder.mkdir()
    for copy in range(math.ceil(images / sum(1 for _ in photographs.rglob("*.JPEG")))):
        (folder / f"copy{copy}").symlink_to(photographs, target_is_directory=True)
    return folder


def measure_rate(output: Path) -> float:
    """Return images per second of a finished data set, without start-up, from its records.

    Time runs from the start of the first shard to the record of the last one.
    """
    ends, starts, images = [], [], 0
    for path in output.glob("records/*.json"):
        record = json.loads(path.read_bytes())
        ends.append(path.stat().st_mtime)
        starts.append(ends[-1] - record["seconds"]["total"])
        images += record["samples"]
    return images / (max(ends) - min(starts))
