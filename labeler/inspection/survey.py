"""What a preview needs to know of a data set: its records added up, and samples measured for comparison."""

import functools
import itertools
import math
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from common.errors import Reason, describe_error
from common.manifest import Failure, Plan, ShardRecord, record_name
from common.shards import Sample, decode_sample, read_samples
from common.storage import Storage
from labeler.publishing.outcome import Records, compute_outcome, scan_records

MOST_SHARDS, MOST_SAMPLES = 8, 4000  # measured of one data set
EXAMPLES = 3  # kept of each kind of failure

T = TypeVar("T")


@dataclass
class CommittedShards:
    """What the records say was written and left out, and what is wrong with the files."""

    shards: dict[str, int] = field(default_factory=dict)  # samples by name
    planned: int = 0
    samples: int = 0
    bytes: int = 0
    failures: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[Failure]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # the first trouble met, by file


class SampleMeasure(NamedTuple):
    """What a sample is compared by. `mean` and `area` are parts of 1, of the map's maximum and of the frame."""

    shard: str
    key: str
    points: int
    mean: float
    area: float
    map_max: float


def read_committed(storage: Storage, plans: Sequence[Plan]) -> CommittedShards:
    """Add up the records of the committed shards. A record that cannot be read is noted."""
    committed = CommittedShards()
    shards = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    records: Records = {}
    for name, record in scan_records(storage):
        if not isinstance(record, ShardRecord):
            committed.notes[name] = describe_error(record)
            continue
        committed.shards[record.shard] = record.samples
        committed.bytes += record.bytes
        if name in shards:
            records[shards[name]] = record
    result = compute_outcome(storage, plans, records)
    committed.planned, committed.samples, committed.failures = result.planned, result.written, result.failures
    for failure in result.failed:
        examples = committed.examples.setdefault(failure.reason, [])
        examples.extend([failure] if len(examples) < EXAMPLES else [])
    return committed


def measure_samples(
    storage: Storage, committed: CommittedShards, generator: np.random.Generator
) -> list[SampleMeasure]:
    """Measure the first samples of shards drawn at random: which image is in which shard was drawn by the plan."""
    filled = [name for name, samples in committed.shards.items() if samples]
    names = sorted(generator.permutation(filled)[:MOST_SHARDS].tolist())
    share = math.ceil(MOST_SAMPLES / max(len(names), 1))
    found = (read_each(storage, name, committed, functools.partial(measure_sample, name)) for name in names)
    return [finding for findings in found for finding in itertools.islice(findings, share)]


def measure_sample(shard: str, sample: Sample) -> SampleMeasure:
    """What is compared of a sample."""
    mean, area = float(sample.attention.mean() / 255), map_area(sample.attention)
    return SampleMeasure(shard, sample.key, len(sample.gaze), mean, area, sample.info.map_max)


def map_area(attention: np.ndarray) -> float:
    """The part of the frame that a map spreads over: exp(entropy) of the map as a distribution, over its pixels.

    attention: uint8 [H, W]. An even map gives 1, a map of one pixel 1 / (H W), an empty map 0.
    """
    counts, values = np.bincount(attention.ravel(), minlength=256)[1:], np.arange(1, 256)
    total = float(counts @ values)
    if total == 0:
        return 0.0
    entropy = math.log(total) - float(counts @ (values * np.log(values))) / total
    return math.exp(entropy) / attention.size


def read_each(
    storage: Storage,
    shard: str,
    committed: CommittedShards,
    use: Callable[[Sample], T],
    keys: Collection[str] | None = None,
) -> Iterator[T]:
    """What `use` makes of a shard's samples (only of those in `keys`, if given); what cannot be read is noted."""
    count = 0
    try:
        with storage.open(shard) as file:
            for key, members in read_samples(file):
                count += 1
                if keys is not None and key not in keys:
                    continue
                try:
                    used = use(decode_sample(key, members))
                except Exception as error:  # Pillow and numpy raise many kinds on damaged bytes
                    committed.notes.setdefault(shard, f"sample {key} cannot be read: {describe_error(error)}")
                    continue
                yield used
    except (OSError, tarfile.TarError) as error:
        committed.notes.setdefault(shard, f"damaged after {count} samples: {describe_error(error)}")
        return
    if count != committed.shards[shard]:
        committed.notes.setdefault(shard, f"holds {count} samples, its record counts {committed.shards[shard]}")
