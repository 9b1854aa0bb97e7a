"""Images in a folder or in tar files -> a listing, and their bytes again.

A listing is a pyarrow Table with one row an image, sorted by uri:
`uri` (path relative to the input; members of a tar follow its name), `size` in bytes, `container` (the tar that holds
it, relative to the input; null for a file of its own) and `offset` (where in the container its bytes begin).
"""

import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import pyarrow as pa

from common import demo
from common.errors import ImageFailure, Reason, UserError
from common.tars import tar_headers

IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
TAR_EXTENSION = ".tar"
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("container", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
    ]
)


class ImageRef(NamedTuple):
    """Where an image's bytes are."""

    uri: str
    size: int
    container: str | None
    offset: int


class Listing(NamedTuple):
    """All images of an input, and what else was there: counts of skipped files by extension."""

    table: pa.Table
    skipped: Counter[str]


class Source(Protocol):
    """A place that images come from."""

    def list(self) -> Listing:
        """Every image, sorted by uri. Raises UserError where the place cannot be listed."""
        ...

    def read(self, image: ImageRef) -> bytes:
        """An image's bytes. Raises ImageFailure: missing, unreadable, changed, empty."""
        ...


def open_source(location: str) -> Source:
    """The images of `demo:photos`, `demo:scenes`, a folder (with tar files or without), or one tar file."""
    if location.startswith("demo:"):
        return LocalSource(demo.demo_folder(location.removeprefix("demo:")))
    if "://" in location:
        raise UserError(f"--input {location}: only local folders and tar files can be read as yet")
    path = Path(location)
    if not path.exists():
        raise UserError(f"--input {location}: there is no such file or folder")
    if path.is_file() and path.suffix.lower() != TAR_EXTENSION:
        hint = (
            "unpack or decompress it first"
            if path.name.lower().endswith(COMPRESSED_TAR)
            else "name a folder or a .tar file"
        )
        raise UserError(f"--input {location}: expected a folder of images or an uncompressed tar file; {hint}")
    return LocalSource(path)


class LocalSource:
    """A folder of images and tar files, to any depth, or a single tar file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> Listing:
        skipped: Counter[str] = Counter()
        images = list(self._walk(skipped))
        images.sort(key=lambda image: image.uri.encode())
        columns = zip(*images, strict=True) if images else ((), (), (), ())
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return Listing(pa.Table.from_arrays(arrays, schema=SCHEMA), skipped)

    def read(self, image: ImageRef) -> bytes:
        path = self.root / (image.container or image.uri) if self.root.is_dir() else self.root
        try:
            # not blocking: a named pipe that calls itself .jpg must not hang the job
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageFailure(Reason.UNREADABLE, "not a regular file")
                if image.container is None and status.st_size != image.size:
                    raise ImageFailure(
                        Reason.CHANGED, f"had {image.size} bytes when the job was planned, has {status.st_size} now"
                    )
                file.seek(image.offset)
                data = file.read(image.size)
        except FileNotFoundError:
            raise ImageFailure(Reason.MISSING, "listed when the job was planned, gone now") from None
        except OSError as error:
            raise ImageFailure(Reason.UNREADABLE, error.strerror or type(error).__name__) from None
        if len(data) != image.size:
            raise ImageFailure(Reason.CHANGED, f"its tar holds only {len(data)} of its {image.size} bytes now")
        return data

    def _walk(self, skipped: Counter[str]) -> Iterator[ImageRef]:
        if self.root.is_file():
            yield from _tar_images(self.root, self.root.name, "", skipped)
            return
        pending = [(self.root, "", frozenset({_identity(self.root)}))]
        while pending:
            folder, prefix, ancestors = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise UserError(f"cannot list the folder {folder}: {error.strerror}") from None
            for entry in entries:
                uri = prefix + _text(entry.name)
                if _is_folder(entry):
                    identity = _identity(Path(entry.path))
                    if identity not in ancestors:  # else a symbolic link back to a folder we are in
                        pending.append((Path(entry.path), f"{uri}/", ancestors | {identity}))
                elif _is_tar(entry.name) and entry.is_file():
                    yield from _tar_images(Path(entry.path), uri, f"{uri}/", skipped)
                elif _is_image(entry.name):
                    yield ImageRef(uri, _size(entry), None, 0)
                else:
                    skipped[_kind(uri)] += 1


def _tar_images(path: Path, container: str, prefix: str, skipped: Counter[str]) -> Iterator[ImageRef]:
    """The images in a tar and in the tars inside it (ImageNet's own file is a tar of tars), with absolute offsets."""
    try:
        with path.open("rb") as file:
            pending: list[tuple[int, int | None, str]] = [(0, None, prefix)]
            while pending:
                start, end, inner = pending.pop()
                for header in tar_headers(file, start, end):
                    uri = inner + _text(header.name)
                    if header.isdir():
                        continue
                    if not header.isreg():
                        skipped["links in tars"] += 1
                    elif _is_tar(header.name):
                        pending.append((header.offset_data, header.offset_data + header.size, f"{uri}/"))
                    elif _is_image(header.name):
                        yield ImageRef(uri, header.size, container, header.offset_data)
                    else:
                        skipped[_kind(uri)] += 1
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as an uncompressed tar file: {error}") from None


def class_folder(uri: str) -> str | None:
    """The folder (or tar) that holds an image: its class in ImageNet's layout; None for an image at the top."""
    parent = PurePosixPath(uri).parent.name
    return (parent[: -len(TAR_EXTENSION)] if _is_tar(parent) else parent) or None


def _kind(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower() or "no extension"


def _is_image(name: str) -> bool:
    # "._x.jpg" is what macOS leaves beside x.jpg in archives, not a picture
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(name).startswith("._")


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TAR_EXTENSION)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling or circular link: planned, so that its failure is told
        return 0


def _text(name: str) -> str:
    """A name as Unicode; bytes that are not UTF-8 are spelt out (such a file is then reported as missing)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
