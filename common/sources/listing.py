"""The table of an input's images, and the classification of file names (image, tar, class).

A listing is a pyarrow Table with one row per image, sorted by `uri`. Its columns are
`uri` (path relative to the input; for a member of a tar, the path of the tar followed by the member's name; for a
photograph of a labeled data set, its path in the input from which it was labeled),
`size` (bytes), `container` (path of the tar that holds the image, relative to the input; null for a separate file) and
`offset` (position of the image's first byte in the container).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import ImageFailure, Reason, UserError

IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
TAR_EXTENSION = ".tar"
LISTING_SCHEMA = pa.schema(
    [
        ("uri", pa.large_string()),  # a large listing exceeds the 2 GB that pa.string() can hold
        ("size", pa.int64()),
        ("container", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
    ]
)
LABEL_FILES = "label files in shards"  # kind of the skipped files of a labeled data set
ROWS_PER_FLUSH = 50_000  # rows collected as Python objects before they are converted to compact columns

OnProgress = Callable[[int], None]  # called with the number of images listed so far


class ImageRef(NamedTuple):
    """Location of an image's bytes within an input: one row of a listing."""

    uri: str
    size: int
    container: str | None
    offset: int


class Listing(NamedTuple):
    """All images of an input, and the numbers of skipped files by kind (see `file_kind`)."""

    table: pa.Table
    skipped: Counter[str]


class ListingBuilder:
    """Builder of a listing from images in any order, which reports progress after every `ROWS_PER_FLUSH` images."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.skipped: Counter[str] = Counter()
        self._on_progress = on_progress
        self._rows: list[ImageRef] = []
        self._tables: list[pa.Table] = []
        self._images = 0

    def add(self, images: Iterable[ImageRef]) -> None:
        """Add images."""
        for image in images:
            self._rows.append(image)
            if len(self._rows) >= ROWS_PER_FLUSH:
                self._flush()

    def finish(self) -> Listing:
        """Return the listing of all images, sorted by the UTF-8 bytes of their uri.

        Raises UserError if photographs of a labeled data set have the uri of another image.
        """
        self._flush()
        table = pa.concat_tables(self._tables).unify_dictionaries()
        self._tables = []
        table = _sort_dictionary(table.take(pc.sort_indices(table["uri"])), "container")
        if self.skipped[LABEL_FILES]:
            _check_unique(table["uri"])
        return Listing(table, self.skipped)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        arrays = [pa.array(column, field.type) for column, field in zip(columns, LISTING_SCHEMA, strict=True)]
        self._tables.append(pa.Table.from_arrays(arrays, schema=LISTING_SCHEMA))
        self._images += len(self._rows)
        self._rows = []
        self._on_progress(self._images)


def _sort_dictionary(table: pa.Table, name: str) -> pa.Table:
    """Sort the dictionary of a column, so that it does not depend on the order in which images were added."""
    column = table[name].combine_chunks()
    order = pc.sort_indices(column.dictionary)
    ranks = pc.sort_indices(order).cast(pa.int32())  # the inverse of a permutation
    sorted_column = pa.DictionaryArray.from_arrays(ranks.take(column.indices), column.dictionary.take(order))
    return table.set_column(table.schema.get_field_index(name), name, sorted_column)


def _check_unique(uris: pa.ChunkedArray) -> None:
    """Raise UserError if sorted uris contain one twice."""
    repeated = uris[1:].filter(pc.equal(uris[1:], uris[:-1]))
    if len(repeated):
        raise UserError(
            f"{repeated[0]} is in this input more than once: in the shards of a labeled data set and in other files or "
            "shards; name a folder with a single data set"
        )


def is_image(name: str) -> bool:
    """Return whether a file is an image, judged by its extension.

    Names such as `._x.jpg` are excluded: macOS adds these metadata files to archives.
    """
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(name).startswith("._")


def is_tar(name: str) -> bool:
    """Return whether a file is an uncompressed tar file, judged by its extension."""
    return name.lower().endswith(TAR_EXTENSION)


def file_kind(name: str) -> str:
    """Return the kind under which a skipped file is counted: its extension in lower case, or "no extension"."""
    return PurePosixPath(name).suffix.lower() or "no extension"


def class_folder(uri: str) -> str | None:
    """Return an image's class in ImageNet's layout: the name of the folder or tar that directly contains it.

    Returns None for an image at the top of the input.
    """
    parent = PurePosixPath(uri).parent.name
    return (parent[: -len(TAR_EXTENSION)] if is_tar(parent) else parent) or None


def missing_failure() -> ImageFailure:
    """Return the failure of an image that was listed but no longer exists."""
    return ImageFailure(Reason.MISSING, "listed when the job was planned, gone now")


def check_size(image: ImageRef, file_size: int) -> None:
    """Raise ImageFailure if the image's file, or the tar that contains it, has changed since it was listed.

    `file_size` is the current size of that file or tar in bytes.
    """
    if image.container is None and file_size != image.size:
        raise ImageFailure(Reason.CHANGED, f"had {image.size} bytes when the job was planned, has {file_size} now")
    if image.container is not None and file_size < image.offset + image.size:
        remaining = max(0, file_size - image.offset)
        raise ImageFailure(Reason.CHANGED, f"its tar holds only {remaining} of its {image.size} bytes now")
