"""Images in a local folder, or in a tar file."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import ImageFailure, Reason, UserError
from common.sources.listing import (
    ImageRef,
    Listing,
    ListingBuilder,
    OnProgress,
    changed_failure,
    file_kind,
    is_image,
    is_tar,
    missing_failure,
    truncated_failure,
)
from common.sources.tars import TarPart, Tars, decode_name, list_tars


class LocalSource:
    """A folder of images and tar files, to any depth, or a single tar file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self, seen: OnProgress = lambda images: None) -> Listing:
        builder = ListingBuilder(seen)
        tars: Tars = []
        if self.root.is_file():
            tars.append(TarPart(self.root.name, ""))
        else:
            builder.add(self._walk(builder, tars))
        list_tars(tars, self._open_tar, builder)
        return builder.finish()

    def read(self, image: ImageRef) -> bytes:
        path = self._path(image.container or image.uri)
        try:
            # not blocking: a named pipe that calls itself .jpg must not hang the job
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageFailure(Reason.UNREADABLE, "not a regular file")
                if image.container is None and status.st_size != image.size:
                    raise changed_failure(image, status.st_size)
                file.seek(image.offset)
                data = file.read(image.size)
        except FileNotFoundError:
            raise missing_failure() from None
        except OSError as error:
            raise ImageFailure(Reason.UNREADABLE, error.strerror or type(error).__name__) from None
        if len(data) != image.size:
            raise truncated_failure(image, len(data))
        return data

    def _path(self, name: str) -> Path:
        return self.root / name if self.root.is_dir() else self.root

    def _open_tar(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")

    def _walk(self, builder: ListingBuilder, tars: Tars) -> Iterator[ImageRef]:
        """Images outside of tars; the tars are collected."""
        pending = [(self.root, "", frozenset({_identity(self.root)}))]
        while pending:
            folder, prefix, ancestors = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise UserError(f"cannot list the folder {folder}: {error.strerror}") from None
            for entry in entries:
                uri = prefix + decode_name(entry.name)
                if _is_folder(entry):
                    identity = _identity(Path(entry.path))
                    if identity not in ancestors:  # else a symbolic link back to a folder we are in
                        pending.append((Path(entry.path), f"{uri}/", ancestors | {identity}))
                elif is_tar(entry.name) and entry.is_file():
                    tars.append(TarPart(uri, f"{uri}/"))
                elif is_image(entry.name):
                    yield ImageRef(uri, _size(entry), None, 0)
                else:
                    builder.skipped[file_kind(uri)] += 1


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
