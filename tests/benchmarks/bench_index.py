"""The index of a data set of ImageNet's size, without its images: writing it, and statistics from it.

Every shard has the rows of 1,000 random samples, in a part of the index as a worker stores it, and a tar file of the
right size without content. Separate processes publish the data set and compute its statistics, so that each has its
own peak memory. The part of a shard and the figures of a sample are timed as well: labeling does this in addition.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timing import Row, peak_memory, print_table

from common.manifest import (
    INDEX,
    INDEX_PARTS,
    MANIFEST,
    LabelConfig,
    Manifest,
    Plan,
    ShardRecord,
    Teacher,
    record_name,
    sha256,
    shard_name,
)
from common.shards import ByteRange, Sample, SampleInfo
from common.storage import LocalStorage
from labeler.inspection.dataset_statistics import compute_statistics
from labeler.planning.plan import compute_fingerprint
from labeler.publishing.index import write_index
from labeler.publishing.index_parts import save_part
from labeler.publishing.index_rows import IndexedSample, ShardRows, index_sample
from labeler.publishing.publish import publish

TEACHER = Teacher(name="synthetic", sha256="0" * 64)
IMAGES, CLASSES, PER_SHARD = 1_281_167, 1000, 1000
MEMBER_BYTES = {"jpg": 110_000, "cls": 3, "json": 500, "attn.png": 9_500, "gaze.npy": 300}
BAR_SECONDS, BAR_GIGABYTES = 30, 1


def main() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in workers: `common.cluster.WORKER_VARIABLES`
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        figures = run_in_process(make_parts, folder)
        publishing = run_in_process(publish_dataset, folder)
        writing = run_in_process(write_again, folder)
        statistics = run_in_process(read_statistics, folder)
        parts = sum(path.stat().st_size for path in (Path(folder) / INDEX_PARTS).iterdir())
        print_table(
            f"{IMAGES:,} samples in {len(make_plan().shard_sizes()):,} shards",
            [
                Row("figures of one sample, map of 224 x 224 pixels", figures["sample"] * 1e3, "ms"),
                Row("part of one shard, encoded and stored", figures["part"] * 1e3, "ms"),
                *(
                    row
                    for what, case in (("publish", publishing), ("  index only", writing), ("statistics", statistics))
                    for row in (
                        Row(what, case["wall"], "s", at_most=BAR_SECONDS),
                        Row("    CPU", case["cpu"], "s"),
                        Row("    peak memory", case["peak"], "GB", at_most=BAR_GIGABYTES),
                        Row("    memory before", case["before"], "GB"),
                    )
                ),
                Row(INDEX, (Path(folder) / INDEX).stat().st_size / 1e6, "MB"),
                Row(f"{INDEX_PARTS}/, all parts", parts / 1e6, "MB"),
            ],
        )


def run_in_process(case: Callable[[Path], dict[str, float]], folder: str) -> dict[str, float]:
    """Run a case in a new process. Returns its figures, its CPU seconds, and its peak memory in GB as `peak`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case, Path(folder)))


def measure(case: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    before, wall, cpu = peak_memory(), time.monotonic(), time.process_time()
    figures = case(folder)
    used = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    return {"before": before, "peak": peak_memory()} | used | figures


def make_plan() -> Plan:
    shards = -(-IMAGES // PER_SHARD)
    config, classes = LabelConfig(samples_per_shard=PER_SHARD), [f"n{index:08d}" for index in range(CLASSES)]
    return Plan(
        input="synthetic",
        config=config,
        teacher=TEACHER,
        images=IMAGES,
        bytes=IMAGES * MEMBER_BYTES["jpg"],
        shards=shards,
        classes=classes,
        listing_sha256="0" * 64,
        fingerprint=compute_fingerprint(config, TEACHER, classes, "0" * 64, None),
    )


def make_parts(folder: Path) -> dict[str, float]:
    """Store plan, records, parts and empty tars. Returns the seconds for a sample's figures, and for a part."""
    storage, plan, generator = LocalStorage(folder), make_plan(), np.random.default_rng(0)
    storage.put(plan.name, plan.to_json())
    sample = make_sample(generator)
    begin = time.process_time()
    for _ in range(1000):
        sums = index_sample(sample).sums
    seconds, key = (time.process_time() - begin) / 1000, 0
    begin = time.process_time()
    for shard, size in enumerate(plan.shard_sizes()):
        rows, place = ShardRows(shard_name(shard)), 0
        for _ in range(size):
            ranges = {}
            for extension, length in MEMBER_BYTES.items():
                ranges[extension] = ByteRange(place + 512, length)
                place += 512 + length + -length % 512
            rows.add(IndexedSample(random_row(key, generator), sums), ranges)
            key += 1
        digest = f"{shard:064x}"
        save_part(storage, rows, digest)
        with open(folder / rows.shard, "wb") as file:
            file.truncate(place)
        record = ShardRecord(
            shard=rows.shard, sha256=digest, bytes=place, samples=size, failures={}, failed=[], seconds={"total": 1.0},
            host="bench", device="cpu", attempt=1,
        )  # fmt: skip
        storage.put(record_name(shard), record.to_json())
    return {"sample": seconds, "part": (time.process_time() - begin) / plan.shards}


def make_sample(generator: np.random.Generator) -> Sample:
    info = SampleInfo(
        source="a.jpg", wnid="", width=500, height=375, exif_orientation=1, source_sha256="0" * 64, reencoded_from="",
        teacher="bench", map_max=1.0, gaze_points=9,
    )  # fmt: skip
    attention = generator.integers(0, 256, (224, 224), dtype=np.uint8)
    return Sample("000000000", None, 0, info, attention, generator.random((9, 3), np.float32))


def random_row(key: int, generator: np.random.Generator) -> dict[str, Any]:
    """Return the row of a sample, as `index_sample` does; one in 1,000 images is that of an earlier sample."""
    class_index = int(generator.integers(CLASSES))
    wnid = f"n{class_index:08d}"
    digest = np.random.default_rng(key % 1_279_000).bytes(32)
    return {
        "key": f"{key:09d}",
        "source": f"train/{wnid}/{wnid}_{key % 20_000}.JPEG",
        "wnid": wnid,
        "class": class_index,
        "source_sha256": digest.hex(),
        "width": 500,
        "height": int(generator.integers(300, 500)),
        "exif_orientation": 1,
        "reencoded_from": "",
        "map_max": float(f"{generator.random():.6g}"),
        "map_mean": generator.random(),
        "map_area": generator.random(),
        "gaze_points": int(generator.integers(20)),
    }


def publish_dataset(folder: Path) -> dict[str, float]:
    if not publish(LocalStorage(folder), [make_plan()], 0)[1]:
        raise RuntimeError("not published")
    return {}


def write_again(folder: Path) -> dict[str, float]:
    content = (folder / MANIFEST).read_bytes()
    if write_index(LocalStorage(folder), Manifest.model_validate_json(content).shards, sha256(content)):
        raise RuntimeError("parts are missing")
    return {}


def read_statistics(folder: Path) -> dict[str, float]:
    report, problems = compute_statistics(str(folder))
    if problems or report["samples"] != IMAGES:
        raise RuntimeError(f"{report['samples']} samples, problems: {problems}")
    return {}


if __name__ == "__main__":
    main()
