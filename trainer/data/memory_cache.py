"""A whole data set, decoded once: in the memory of each GPU if it fits, otherwise once per machine."""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.images.jpeg import read_jpeg_header
from common.launch import Rank
from common.parallel import available_cores
from common.progress import PROGRESS_DELAY, progress_bar
from common.shards import decode_points
from common.text import format_bytes
from trainer.data.dataset import Dataset
from trainer.data.decoding import Annotations, DamagedSample, DecodedSample, Members, decode_sample, sample_key
from trainer.data.shared_memory import SHARED, Allocate, available_memory, fill_once, remove_name

USABLE = 0.8  # fraction of a machine's available memory that the samples may take
USABLE_OF_GPU = 0.5  # the same of a GPU, whose memory the training step needs too

ReadShard = Callable[[int], Sequence[Members]]
DecodedShard = list[DecodedSample | DamagedSample]


class CachedSample(NamedTuple):
    """Where a decoded sample is in memory: its pixels [H, W, 3], map [M, M] and n gaze points follow each other.

    `damage` is empty, or states why the sample could not be decoded.
    """

    key: str
    label: int
    offset: int
    height: int
    width: int
    map_side: int
    points: int
    damage: str = ""

    @property
    def ends(self) -> list[int]:
        """Ends of the pixels, the map and the points, in bytes from `offset`."""
        return np.cumsum([3 * self.height * self.width, self.map_side**2, 3 * 4 * self.points]).tolist()


Index = list[list[CachedSample]]  # by shard


def load_decoded(data: Dataset, read_shard: ReadShard, rank: Rank, name: str) -> list[DecodedShard]:
    """Decode all samples of a data set into memory. Every rank must call this.

    The ranks of a machine share one copy. If a GPU has room for it, it gets a copy of its own instead.

    Args:
        data: the data set.
        read_shard: returns the samples of the shard with an index.
        rank: this process.
        name: names the run.

    Returns the samples by shard. Raises UserError if the memory is too small.
    """
    if rank.world_size == 1:
        index, content = fill_memory(data, read_shard, lambda size: np.empty(size, np.uint8), available_memory())
    else:
        index, content = _fill_once_per_machine(data, read_shard, rank, name)
    host = torch.from_numpy(content)
    fits = rank.device.type == "cuda" and len(host) <= USABLE_OF_GPU * torch.cuda.mem_get_info(rank.device)[0]
    tensor = host.to(rank.device) if fits else host
    return [[_open_sample(entry, tensor, content) for entry in shard] for shard in index]


def _fill_once_per_machine(data: Dataset, read_shard: ReadShard, rank: Rank, name: str) -> tuple[Index, np.ndarray]:
    def fill(allocate: Allocate, available: int) -> bytes:
        index, _ = fill_memory(data, read_shard, allocate, available, SHARED)
        return json.dumps(index).encode()

    name = hashlib.sha256(f"{name} {data.checksum}".encode()).hexdigest()[:16]
    description, content = fill_once(name, fill)
    rank.total(1)  # waits until all ranks have it
    remove_name(name)
    return [[CachedSample(*entry) for entry in shard] for shard in json.loads(description)], content


def fill_memory(
    data: Dataset, read_shard: ReadShard, allocate: Allocate, available: int, kind: str = "memory"
) -> tuple[Index, np.ndarray]:
    """Measure the samples of all shards, allocate memory for them, and decode them into it.

    Each shard is read twice. Returns the samples by shard, and the memory. Raises UserError if the samples take more
    than a part of the `available` bytes, before memory is allocated; the message calls the memory by its `kind`.
    """
    index: Index = []
    total = 0
    for shard in range(len(data.shards)):
        entries = measure_samples(read_shard(shard), total)
        index.append(entries)
        total = max((entry.offset + entry.ends[-1] for entry in entries), default=total)
        if total > USABLE * available:
            needed = total * data.samples // sum(map(len, index))
            raise UserError(
                f"--cache memory: the decoded samples take about {format_bytes(needed)}, and {USABLE:.0%} of the "
                f"{format_bytes(available)} of available {kind} may be used; choose --cache none or, for a data set "
                "in S3, --cache disk:FOLDER"
            )
    content = allocate(total)

    def fill_shard(shard: int) -> list[CachedSample]:
        pairs = zip(read_shard(shard), index[shard], strict=True)
        return [_store(members, entry, data.classes, content) for members, entry in pairs]

    with ThreadPoolExecutor(available_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        filled = pool.map(fill_shard, range(len(index)))
        return list(progress_bar(filled, total=len(index), unit=" shards decoded", delay=PROGRESS_DELAY)), content


def measure_samples(samples: Sequence[Members], offset: int = 0) -> list[CachedSample]:
    """Return where samples will be in memory, from `offset` on, as their headers declare it."""
    entries = []
    for members in samples:
        entry = _measure_sample(members, offset)
        offset += entry.ends[-1]
        entries.append(entry)
    return entries


def _measure_sample(members: Members, offset: int) -> CachedSample:
    key = sample_key(members)
    try:
        header = read_jpeg_header(members["jpg"])
        height, width = (header.height, header.width) if header else (0, 0)
        map_side = struct.unpack(">I", members["attn.png"][16:20])[0]  # the width in a PNG's first chunk
        return CachedSample(key, 0, offset, height, width, map_side, len(decode_points(members["gaze.npy"])))
    except Exception:  # a damaged sample, whose decoding states why
        return CachedSample(key, 0, offset, 0, 0, 0, 0)


def _store(members: Members, entry: CachedSample, classes: int | None, content: np.ndarray) -> CachedSample:
    """Decode a sample into its part of the memory."""
    try:
        pixels, annotations = decode_sample(members, classes)
        expected = (3, entry.height, entry.width), (entry.map_side, entry.map_side), entry.points
        if (tuple(pixels.shape), tuple(annotations.attention.shape), len(annotations.gaze)) != expected:
            raise ValueError("its size is not the one that its headers declare")
        arrays = pixels.permute(1, 2, 0).numpy(), annotations.attention.numpy(), annotations.gaze
        start = entry.offset
        for array, end in zip(arrays, entry.ends, strict=True):
            content[start : entry.offset + end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            start = entry.offset + end
    except Exception as error:  # decoders raise many types for damaged bytes
        return entry._replace(damage=describe_error(error))
    return entry._replace(label=annotations.label)


def _open_sample(entry: CachedSample, tensor: Tensor, content: np.ndarray) -> DecodedSample | DamagedSample:
    """Return a sample whose pixels and map are parts of `tensor`, a copy of `content` on some device."""
    if entry.damage:
        return DamagedSample(entry.key, entry.damage)
    after_pixels, after_map, after_points = (entry.offset + end for end in entry.ends)
    pixels = tensor[entry.offset : after_pixels].view(entry.height, entry.width, 3).permute(2, 0, 1)
    attention = tensor[after_pixels:after_map].view(entry.map_side, entry.map_side)
    gaze = content[after_map:after_points].copy().view(np.float32).reshape(entry.points, -1)
    return DecodedSample(pixels, Annotations(attention, gaze, entry.label, entry.key))
