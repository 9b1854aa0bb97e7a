"""Images in a local folder or a local tar file."""

import errno
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
    check_size,
    file_kind,
    is_image,
    is_tar,
    missing_failure,
)
from common.sources.tars import TarPart, Tars, decode_name, list_tars

# errors of this machine or its network, and not of a file: another machine, or a later attempt, can read the same file
MACHINE_ERRORS = {
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
}


class LocalSource:
    """Source of the images in a folder, its subfolders and the tar files in them, or in a single tar file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self, on_progress: OnProgress = lambda images: None) -> Listing:
        builder = ListingBuilder(on_progress)
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
            # O_NONBLOCK: opening a named pipe whose name ends in .jpg must not block the job
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageFailure(Reason.UNREADABLE, "not a regular file")
                check_size(image, status.st_size)
                file.seek(image.offset)
                data = file.read(image.size)
        except FileNotFoundError:
            raise missing_failure() from None
        except OSError as error:
            if error.errno in MACHINE_ERRORS:
                raise
            raise ImageFailure(Reason.UNREADABLE, error.strerror or type(error).__name__) from None
        check_size(image, image.offset + len(data))  # in case the file became shorter since fstat
        return data

    def _path(self, name: str) -> Path:
        return self.root / name if self.root.is_dir() else self.root

    def _open_tar(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")

    def _walk(self, builder: ListingBuilder, tars: Tars) -> Iterator[ImageRef]:
        """Yield the images outside of tars; append the tars to `tars` and count other files in `builder`."""
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
                    if identity not in ancestors:  # otherwise a symbolic link forms a cycle
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
    except OSError:  # a symbolic link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling or circular link is listed too, so that reading it reports the failure
        return 0
