"""Photographs in the shards of a labeled data set, so that another teacher can label them again.

Their uris are those of the first labeling, which the shards store, so that class, key and shard of each photograph are
the same again.
"""

import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from common.sources.listing import LABEL_FILES, ImageRef

MAX_SAMPLE_MEMBERS = 5  # jpg, cls, json, attn.png, gaze.npy
SHARD_MEMBERS = {"json", "attn.png"}  # in every sample of a shard, and in no other tar


def is_shard(first: Sequence[tarfile.TarInfo]) -> bool:
    """Return whether a tar is a shard of a labeled data set, judged by its first headers, `MAX_SAMPLE_MEMBERS` or more.

    Only files count: tools that pack a folder add a header for the folder.
    """
    names = [_split_name(header.name) for header in first if header.isreg()]
    return bool(names) and {extension for key, extension in names if key == names[0][0]} >= SHARD_MEMBERS


def list_photographs(
    headers: Iterable[tarfile.TarInfo], file: BinaryIO, container: str, prefix: str, skipped: Counter[str]
) -> Iterator[ImageRef]:
    """Yield the photographs of a shard, and count its other files in `skipped`.

    Args:
        headers: all headers of the shard, read from `file` as they are needed.
        file: the file that contains the shard.
        container: path of that file, relative to the input.
        prefix: path of the folder or tar that contains the shard, relative to the input and with "/" at its end.
        skipped: numbers of skipped files by kind.

    Raises UserError if the source of a photograph cannot be read.
    """
    files = (header for header in headers if header.isreg())
    for key, group in itertools.groupby(files, key=lambda header: _split_name(header.name)[0]):
        members = {_split_name(header.name)[1]: header for header in group}
        if any(header.issparse() for header in members.values()):
            skipped["sparse files in tars"] += len(members)
            continue
        photograph = members.pop("jpg", None)
        skipped[LABEL_FILES] += len(members)
        if photograph is not None:
            uri = prefix + _read_source(members.get("json"), file, f"{container}: sample {key}")
            yield ImageRef(uri, photograph.size, container, photograph.offset_data)


def _split_name(name: str) -> tuple[str, str]:
    """Split the name of a shard's file into key and extension, at the first dot after the folders."""
    path = PurePosixPath(name)
    key, _, extension = path.name.partition(".")
    return str(path.with_name(key)) if key else name, extension


def _read_source(header: tarfile.TarInfo | None, file: BinaryIO, sample: str) -> str:
    """Return the path of a photograph in the input from which it was labeled."""
    if header is not None:
        file.seek(header.offset_data)
        try:
            source = json.loads(file.read(header.size))["source"]
        except (ValueError, KeyError, TypeError):
            source = None
        if isinstance(source, str) and source:
            return source
    raise UserError(
        f"{sample}: expected a json file that names the source of its photograph, found none; check the data set with "
        "python -m labeler.verify"
    )
