"""Overview of a data set from its records, and measurements of a random part of its samples."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.errors import Reason, describe_error
from common.manifest import Failure, Plan, ShardRecord, record_name
from common.shards import Sample
from common.storage import Storage
from labeler.inspection.reader import map_samples
from labeler.publishing.map_measures import compute_map_area
from labeler.publishing.outcome import Records, compute_outcome, scan_records

MAX_MEASURED_SHARDS = 8
MAX_MEASURED_SAMPLES = 4000
EXAMPLES_PER_REASON = 3


@dataclass
class DatasetOverview:
    """Totals over the records of the committed shards, and the problems found while reading the data set."""

    shards: dict[str, int] = field(default_factory=dict)  # number of samples by name of the shard
    planned: int = 0  # images
    samples: int = 0
    bytes: int = 0
    failures: Counter[Reason] = field(default_factory=Counter)  # images by reason
    failure_examples: dict[Reason, list[Failure]] = field(default_factory=dict)  # at most EXAMPLES_PER_REASON each
    problems: dict[str, str] = field(default_factory=dict)  # the first problem of each damaged file, by file name

    def add_problem(self, name: str, problem: str) -> None:
        """Record a problem of a file, unless it already has one."""
        self.problems.setdefault(name, problem)


class SampleMeasures(NamedTuple):
    """Figures by which a preview compares samples."""

    shard: str
    key: str
    points: int
    mean: float  # of the map, as a fraction of its maximum
    area: float  # of the map, as a fraction of the frame: see `compute_map_area`
    map_max: float  # the teacher's maximum, before normalization


def read_overview(storage: Storage, plans: Sequence[Plan]) -> DatasetOverview:
    """Add up the records of the committed shards. Records that cannot be read are skipped and become problems."""
    overview = DatasetOverview()
    shards = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    records: Records = {}
    for name, record in scan_records(storage):
        if not isinstance(record, ShardRecord):
            overview.add_problem(name, describe_error(record))
            continue
        overview.shards[record.shard] = record.samples
        overview.bytes += record.bytes
        if name in shards:
            records[shards[name]] = record
    outcome = compute_outcome(storage, plans, records)
    overview.planned, overview.samples, overview.failures = outcome.planned, outcome.written, outcome.failures
    for failure in outcome.failed:
        examples = overview.failure_examples.setdefault(failure.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(failure)
    return overview


def measure_samples(
    storage: Storage, overview: DatasetOverview, generator: np.random.Generator
) -> list[SampleMeasures]:
    """Measure the first samples of randomly chosen shards. Problems are added to the overview.

    The first samples of a shard are a random sample of its images, because the plan shuffles the images.
    """
    nonempty = [name for name, samples in overview.shards.items() if samples]
    names = sorted(generator.permutation(nonempty)[:MAX_MEASURED_SHARDS].tolist())
    per_shard = math.ceil(MAX_MEASURED_SAMPLES / max(len(names), 1))
    return [
        measures
        for name in names
        for measures in itertools.islice(
            map_samples(
                functools.partial(measure_sample, name),
                storage,
                name,
                on_problem=functools.partial(overview.add_problem, name),
                expected_samples=overview.shards[name],
            ),
            per_shard,
        )
    ]


def measure_sample(shard: str, sample: Sample) -> SampleMeasures:
    """Return the figures of one sample of a shard."""
    mean, area = float(sample.attention.mean() / 255), compute_map_area(sample.attention)
    return SampleMeasures(shard, sample.key, len(sample.gaze), mean, area, sample.info.map_max)
