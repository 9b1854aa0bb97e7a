"""One side of a comparison: the samples of a data set, and where they lie in its shards."""

import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError, describe_error
from common.manifest import MANIFEST, Manifest, ShardEntry, plan_name
from common.parallel import in_processes
from common.storage import Storage, open_storage
from labeler.inspection.shard_statistics import DIGEST_DIGITS, read_shard_rows
from labeler.planning.generations import read_plans
from labeler.publishing.index import UnusableIndex, find_changed_shard, open_index
from labeler.publishing.outcome import read_records

BLOCK = 512  # bytes of a header in a tar, to whose multiples contents are padded
COLUMNS = ["source", "wnid", "source_sha256", "jpg_offset", "cls_offset", "json_offset", "gaze_npy_offset"]
COLUMNS += ["gaze_npy_size"]
ROW_DTYPE = np.dtype(
    [
        ("digest", "S16"),  # first half of source_sha256
        ("source", "S8"),  # checksum of the source's path
        ("wnid", "i4"),  # index into the labeling's list
        ("shard", "i4"),  # index into the labeling's list
        ("start", "i8"),  # range of the sample's members in its shard, in bytes
        ("labels", "i8"),  # where those begin that are not the image and its class
        ("stop", "i8"),
    ]
)


class LabelingFiles(NamedTuple):
    """What a process needs to read samples of a labeling."""

    location: str
    shards: list[str]
    map_size: int


class Labeling(NamedTuple):
    """All samples of a data set that can be read, 56 bytes each."""

    files: LabelingFiles
    teacher: str
    complete: bool
    wnids: list[str]
    rows: np.ndarray  # ROW_DTYPE [samples]
    problems: dict[str, str]  # the first one of each shard that was read and could not be read completely, by name


def open_labeling(dataset: str, workers: int | None = None) -> Labeling:
    """Find the samples of a data set: of its published shards or, without a manifest, of its committed shards.

    They are found in the index. If it cannot be used, a sentence on standard error says why, and the shards are read.

    Raises UserError if there is no data set, or if it has no shards yet.
    """
    storage = open_storage(dataset)
    shards, properties = _list_shards(storage)
    names, problems = [shard.name for shard in shards], dict[str, str]()
    try:
        wnids = dict[str, int]()  # index of each name
        parts = [_to_rows(table, names, wnids) for table in _read_index(storage, shards)]
    except UnusableIndex as reason:
        print(f"reading the shards of {dataset} instead of its index, because {reason}", file=sys.stderr)
        wnids, parts = {}, []
        read = functools.partial(read_table, dataset)
        results = in_processes(read, shards, processes=workers, unit="shards")
        for name, (table, problem) in zip(names, results, strict=True):
            parts.append(_to_rows(table, names, wnids))
            if problem:
                problems[name] = problem
    rows = np.concatenate([np.empty(0, ROW_DTYPE), *parts])
    files = LabelingFiles(dataset, names, properties["map_size"])
    return Labeling(files, properties["teacher"], properties["complete"], list(wnids), rows, problems)


def _read_index(storage: Storage, shards: Sequence[ShardEntry]) -> Iterator[pa.Table]:
    """Yield the rows of the index, group by group. Raises UnusableIndex if it does not belong to the shards."""
    index = open_index(storage)
    if changed := find_changed_shard(storage, shards):
        raise UnusableIndex(changed)
    yield from index.read_groups(["shard", *COLUMNS])


def read_table(dataset: str, shard: ShardEntry) -> tuple[pa.Table, str | None]:
    """Return the rows of the index for a shard, computed from the shard, and the first problem found."""
    problems = list[str]()
    open_shard = functools.partial(open_storage(dataset).open, shard.name)
    rows = read_shard_rows(shard.name, open_shard, shard.samples, problems.append)
    return rows.to_table().select(["shard", *COLUMNS]), problems[0] if problems else None


def _list_shards(storage: Storage) -> tuple[Sequence[ShardEntry], dict[str, Any]]:
    """Return the shards of a data set, and its teacher, map size and whether it is complete."""
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError as error:
        raise UserError(f"{storage.location}/{MANIFEST} is damaged: {describe_error(error)}") from None
    else:
        complete = not storage.exists(plan_name(manifest.generation + 1))
        properties = {"teacher": manifest.teacher.id, "map_size": manifest.map_size, "complete": complete}
        return manifest.shards, properties
    plans = read_plans(storage)
    records = [record for _, record in sorted(read_records(storage, plans).items())]
    if not records:
        raise UserError(
            f"{storage.location}: expected a data set with finished shards, found none yet; run the same labeling "
            "command again to resume it"
        )
    properties = {"teacher": plans[-1].teacher.id, "map_size": plans[-1].config.map_size, "complete": False}
    fields = ("sha256", "bytes", "samples")
    return [
        ShardEntry(name=record.shard, **{field: getattr(record, field) for field in fields}) for record in records
    ], properties


def _to_rows(table: pa.Table, shards: list[str], wnids: dict[str, int]) -> np.ndarray:
    """Convert rows of the index. New names of classes are added to `wnids`. Raises UnusableIndex for other data."""
    rows = np.zeros(len(table), ROW_DTYPE)
    try:
        digits = "".join(digest[:DIGEST_DIGITS] for digest in table["source_sha256"].to_pylist())
        rows["digest"] = np.frombuffer(bytes.fromhex(digits), "S16")
        rows["source"] = list(map(_hash_source, table["source"].to_pylist()))
        rows["wnid"] = _to_indices(table["wnid"], wnids)
        rows["shard"] = _to_indices(table["shard"], {name: index for index, name in enumerate(shards)})
        first = pc.coalesce(table["jpg_offset"], table["cls_offset"], table["json_offset"])
        stop = table["gaze_npy_offset"].to_numpy() + table["gaze_npy_size"].to_numpy()
        rows["start"], rows["labels"] = first.to_numpy() - BLOCK, table["json_offset"].to_numpy() - BLOCK
        rows["stop"] = stop + -stop % BLOCK
    except (ValueError, TypeError, AttributeError) as error:  # null values among them
        raise UnusableIndex(f"it is damaged: {describe_error(error)}") from None
    return rows


def _hash_source(source: str) -> bytes:
    return hashlib.blake2b(source.encode(), digest_size=8).digest()


def _to_indices(column: pa.ChunkedArray, indices: dict[str, int]) -> np.ndarray:
    """Return the index of each value of a column. Values that have none yet get the next ones."""
    encoded = column.combine_chunks().dictionary_encode()
    table = [indices.setdefault(value, len(indices)) for value in encoded.dictionary.to_pylist()]
    return np.array(table, np.int32)[encoded.indices.to_numpy()]
