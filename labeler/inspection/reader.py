"""Reader of one shard's samples that skips what is damaged and reports it."""

import functools
import hashlib
import io
import tarfile
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO, TypeVar

from common.errors import describe_error
from common.shards import MemberRanges, Sample, read_located_samples
from common.storage import ReadableStorage, Storage
from common.text import pluralize

MAX_BYTES_IN_MEMORY = 1 << 30  # larger shards are read from the storage twice, smaller ones once into memory
READ_SIZE = 1 << 20  # bytes of a shard that are hashed at once
T = TypeVar("T")


def open_for_two_passes(storage: ReadableStorage, shard: str, size: int) -> BinaryIO:
    """Open a shard of `size` bytes to compute its checksum and to read its samples. Raises FileNotFoundError."""
    return io.BytesIO(storage.read(shard)) if size < MAX_BYTES_IN_MEMORY else storage.open(shard)


def hash_file(file: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 and the number of the bytes from the current position of a file to its end."""
    digest, size = hashlib.sha256(), 0
    while block := file.read(READ_SIZE):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def map_samples(
    function: Callable[[Sample], T],
    storage: Storage,
    shard: str,
    *,
    on_problem: Callable[[str], object],
    expected_samples: int | None = None,
    keys: Collection[str] | None = None,
) -> Iterator[T]:
    """Yield `function(sample)` for the samples of a shard, like `map_located_samples`."""

    def call(sample: Sample, ranges: MemberRanges) -> T:
        return function(sample)

    open_shard = functools.partial(storage.open, shard)
    return map_located_samples(call, open_shard, on_problem=on_problem, expected_samples=expected_samples, keys=keys)


def map_located_samples(
    function: Callable[[Sample, MemberRanges], T],
    open_shard: Callable[[], BinaryIO],
    *,
    on_problem: Callable[[str], object],
    expected_samples: int | None = None,
    keys: Collection[str] | None = None,
) -> Iterator[T]:
    """Yield `function(sample, ranges)` for the samples of a shard, in the order of the shard.

    `ranges` states where the files of the sample lie in the shard. A sample is skipped if it cannot be decoded or
    `function` raises an exception. A missing or damaged tar file ends the iteration. Each such problem is passed to
    `on_problem` as a message without the name of the shard.

    Args:
        expected_samples: number of samples according to the shard's record. Any other number is a problem, reported
            when the iteration reaches the end of the shard.
        keys: if given, only the samples with these keys are decoded.
    """
    count = 0
    try:
        with open_shard() as file:
            for key, members, ranges in read_located_samples(file):
                count += 1
                if keys is not None and key not in keys:
                    continue
                try:
                    result = function(Sample.from_members(key, members), ranges)
                except Exception as error:  # Pillow and NumPy raise many types of exception for damaged bytes
                    on_problem(f"sample {key} cannot be read: {describe_error(error)}")
                    continue
                yield result
    except (OSError, tarfile.TarError) as error:
        on_problem(f"damaged after {pluralize(count, 'sample')}: {describe_error(error)}")
        return
    if expected_samples is not None and count != expected_samples:
        on_problem(f"holds {pluralize(count, 'sample')}, its record counts {expected_samples}")
