"""The images of an input as a table, and what names say: is this an image, a tar, and of which class?

A listing is a pyarrow Table with one row an image, sorted by uri:
`uri` (path relative to the input; members of a tar follow its name), `size` in bytes, `container` (the tar that holds
it, relative to the input; null for a file of its own) and `offset` (where in the container its bytes begin).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import ImageFailure, Reason

IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
TAR_EXTENSION = ".tar"
SCHEMA = pa.schema(
    [
        ("uri", pa.large_string()),  # more than 2 GB of them in a large listing
        ("size", pa.int64()),
        ("container", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
    ]
)
CHUNK = 50_000  # images kept as Python objects before they become columns

OnProgress = Callable[[int], None]


class ImageRef(NamedTuple):
    """Where an image's bytes are."""

    uri: str
    size: int
    container: str | None
    offset: int


class Listing(NamedTuple):
    """All images of an input, and what else was there: counts of skipped files by kind."""

    table: pa.Table
    skipped: Counter[str]


class ListingBuilder:
    """Collects images in any order. `seen(images so far)` is called now and then."""

    def __init__(self, seen: OnProgress) -> None:
        self.skipped: Counter[str] = Counter()
        self._seen = seen
        self._rows: list[ImageRef] = []
        self._tables: list[pa.Table] = []
        self._images = 0

    def add(self, images: Iterable[ImageRef]) -> None:
        """More images."""
        for image in images:
            self._rows.append(image)
            if len(self._rows) >= CHUNK:
                self._flush()

    def finish(self) -> Listing:
        """All of them, sorted by the bytes of their uri."""
        self._flush()
        table = pa.concat_tables(self._tables).unify_dictionaries()
        self._tables = []
        return Listing(table.take(pc.sort_indices(table["uri"])), self.skipped)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._tables.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._images += len(self._rows)
        self._rows = []
        self._seen(self._images)


def is_image(name: str) -> bool:
    """By its extension; `._x.jpg` is what macOS leaves beside x.jpg in archives, not a picture."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(name).startswith("._")


def is_tar(name: str) -> bool:
    """By its extension."""
    return name.lower().endswith(TAR_EXTENSION)


def file_kind(name: str) -> str:
    """What a skipped file is counted as."""
    return PurePosixPath(name).suffix.lower() or "no extension"


def class_folder(uri: str) -> str | None:
    """The folder (or tar) that holds an image: its class in ImageNet's layout; None for an image at the top."""
    parent = PurePosixPath(uri).parent.name
    return (parent[: -len(TAR_EXTENSION)] if is_tar(parent) else parent) or None


def missing_failure() -> ImageFailure:
    """What to raise for a listed image that is gone."""
    return ImageFailure(Reason.MISSING, "listed when the job was planned, gone now")


def changed_failure(image: ImageRef, size: int) -> ImageFailure:
    """What to raise for a listed image of another size than then."""
    return ImageFailure(Reason.CHANGED, f"had {image.size} bytes when the job was planned, has {size} now")


def truncated_failure(image: ImageRef, size: int) -> ImageFailure:
    """What to raise for a listed image in a tar that ends before the image does."""
    return ImageFailure(Reason.CHANGED, f"its tar holds only {size} of its {image.size} bytes now")
