"""Where samples come from: shards, read in every epoch; a cache of them on a local disk; or memory."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.launch import Rank
from common.text import format_bytes, pluralize
from trainer.config import TrainSettings
from trainer.data.dataset import Dataset
from trainer.data.decoding import DecodedSample, Members, StoredSample
from trainer.data.memory_cache import load_decoded, measure_samples
from trainer.data.shard_reader import ShardReader
from trainer.data.shared_memory import SHARED, available_memory, available_shared_memory

SMALL = 0.25  # of the available memory; a data set that takes less is kept there by default


class Source(NamedTuple):
    """A function that returns the samples of the shard with an index, and whether they are decoded already."""

    read_shard: Callable[[int], Sequence[StoredSample]]
    decoded: bool


def open_source(settings: TrainSettings, data: Dataset, rank: Rank, name: str, epochs: float) -> Source:
    """Open the source of a run's samples, as `--cache` demands or, without it, as data and machine suggest.

    Every rank must call this; the first one prints what is chosen. `name` names the run, and `epochs` is the number of
    epochs that remain. Raises UserError if there is too little memory for `--cache memory`.
    """
    reader = ShardReader(data, settings.skip_damaged, settings.shard_cache(data.location))
    use_memory = settings.cache == "memory" and epochs > 0  # a finished run reads nothing
    reason = ""
    if settings.cache is None:
        use_memory, reason = prefer_memory(data, reader.read, epochs, rank)
    if not use_memory:
        _print(rank, f"{settings.cache or 'none'}{reason}")
        return Source(reader.read, decoded=False)
    shards = load_decoded(data, reader.read, rank, name)
    decoded = [sample for shard in shards for sample in shard if isinstance(sample, DecodedSample)]
    size = format_bytes(sum(sample.pixels.numel() + sample.annotations.attention.numel() for sample in decoded))
    where = "GPU" if decoded and decoded[0].pixels.is_cuda else "machine"
    _print(rank, f"memory of the {where}, {pluralize(len(decoded), 'decoded sample')}, {size}{reason}")
    return Source(shards.__getitem__, decoded=True)


def prefer_memory(
    data: Dataset, read_shard: Callable[[int], Sequence[Members]], epochs: float, rank: Rank
) -> tuple[bool, str]:
    """Decide whether samples are to be kept in memory by default, and explain the decision.

    They are if more than one epoch remains, and their size, estimated from the first shard, is small on the machines of
    all ranks.
    """
    if epochs <= 1:
        return False, ""
    entries = measure_samples(read_shard(0))
    size = sum(entry.ends[-1] for entry in entries) * data.samples // max(len(entries), 1)
    alone = rank.world_size == 1
    available, kind = (available_memory(), "memory") if alone else (available_shared_memory(), SHARED)
    if rank.total(size <= SMALL * available) == rank.world_size:
        return True, ""
    advice = "; --cache disk:FOLDER reads each shard from S3 once" if data.location.startswith("s3://") else ""
    return False, (
        f" (decoded, the data set takes about {format_bytes(size)}, more than a quarter of the "
        f"{format_bytes(available)} of available {kind}{advice})"
    )


def _print(rank: Rank, choice: str) -> None:
    if rank.index == 0:
        print(f"cache: {choice}")
