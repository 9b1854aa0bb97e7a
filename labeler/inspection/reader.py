"""Reader of one shard's samples that skips what is damaged and reports it."""

import tarfile
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from common.errors import describe_error
from common.shards import Sample, read_samples
from common.storage import Storage

T = TypeVar("T")


def map_samples(
    function: Callable[[Sample], T],
    storage: Storage,
    shard: str,
    *,
    on_problem: Callable[[str], object],
    expected_samples: int | None = None,
    keys: Collection[str] | None = None,
) -> Iterator[T]:
    """Yield `function(sample)` for the samples of a shard, in the order of the shard.

    A sample is skipped if it cannot be decoded or `function` raises an exception. A missing or damaged tar file ends
    the iteration. Each such problem is passed to `on_problem` as a message without the name of the shard.

    Args:
        expected_samples: number of samples according to the shard's record. Any other number is a problem, reported
            when the iteration reaches the end of the shard.
        keys: if given, only the samples with these keys are decoded.
    """
    count = 0
    try:
        with storage.open(shard) as file:
            for key, members in read_samples(file):
                count += 1
                if keys is not None and key not in keys:
                    continue
                try:
                    result = function(Sample.from_members(key, members))
                except Exception as error:  # Pillow and NumPy raise many types of exception for damaged bytes
                    on_problem(f"sample {key} cannot be read: {describe_error(error)}")
                    continue
                yield result
    except (OSError, tarfile.TarError) as error:
        on_problem(f"damaged after {count} samples: {describe_error(error)}")
        return
    if expected_samples is not None and count != expected_samples:
        on_problem(f"holds {count} samples, its record counts {expected_samples}")
