"""Data sets labeled in this process, and an independent reader of their shards."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.manifest import Plan
from common.storage import LocalStorage
from labeler.publishing.publish import publish
from tests.support.jobs import members, planned, shard_labeler

MAX_GAZE_POINTS = 10


def label_shards(plan: Plan, output: Path, shards: range | None = None) -> None:
    """Label the given shards of a plan, by default all."""
    labeler = shard_labeler(plan, output)
    for shard in plan.shard_indices if shards is None else shards:
        labeler.label(shard)


def make_dataset(images: Path, output: Path, **config: Any) -> Path:
    """Label images and publish the data set."""
    plan = planned(
        images, output, **{"map_size": 50, "max_gaze_points": MAX_GAZE_POINTS, "gaze_threshold": 0.75, **config}
    )
    label_shards(plan, output)
    assert publish(LocalStorage(output), [plan], max_bad_fraction=1)[1]
    return output


def rewrite_index(dataset: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of the index of a data set, but not its metadata."""
    path = dataset / "index.parquet"
    metadata = pq.read_metadata(path).metadata
    del metadata[b"ARROW:schema"]
    table = change(pq.read_table(path)).replace_schema_metadata(metadata)
    path.unlink()
    pq.write_table(table, path)


def read_samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Read the files of each sample of a data set by extension with tarfile; the samples by key, in their order."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("train-*.tar")):
        for name, content in members(path).items():
            key, _, extension = name.partition(".")
            samples.setdefault(key, {})[extension] = content
    return samples


class ShardContents:
    """The content of all tars of a data set, read with tarfile, Pillow and NumPy."""

    def __init__(self, folder: Path, skipped: str = "") -> None:
        paths = [path for path in sorted(folder.glob("train-*.tar")) if path.name != skipped]
        contents = {name: content for path in paths for name, content in members(path).items()}
        self.infos = [json.loads(content) for name, content in contents.items() if name.endswith(".json")]
        self.classes = [int(content) for name, content in contents.items() if name.endswith(".cls")]
        pngs = [content for name, content in contents.items() if name.endswith(".png")]
        self.maps = [np.asarray(Image.open(io.BytesIO(content)), float) / 255 for content in pngs]
        arrays = [content for name, content in contents.items() if name.endswith(".npy")]
        self.points = [np.load(io.BytesIO(content)).astype(float) for content in arrays]

    def quantiles(self, values: Sequence[float]) -> Any:
        """Return the quantiles as in the statistics, for an approximate comparison."""
        return pytest.approx({f"{q}%": np.quantile(values, q / 100) for q in (5, 25, 50, 75, 95)})

    def column(self, name: str) -> list[Any]:
        """Return one value of the json member of every sample."""
        return [info[name] for info in self.infos]
