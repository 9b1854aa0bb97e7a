"""Where data sets lie: one small interface over a folder or S3, whose writes are whole or not at all."""

import contextlib
from pathlib import Path
from typing import BinaryIO, Protocol

from common.errors import UserError
from common.storage.local import LocalStorage


class Storage(Protocol):
    """A data set's place. Names are relative, with `/`; a name appears only when its content is complete."""

    location: str  # as the user named it
    largest_object: int  # bytes

    def exists(self, name: str) -> bool:
        """Is there such an object?"""
        ...

    def list(self, folder: str = "") -> list[str]:
        """Sorted names of the objects directly in a folder; empty where there is no such folder."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open for reading, seekable. Raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""
        ...

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """So many bytes from `start` on. Raises FileNotFoundError."""
        ...

    def scratch(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """A new local file to write to, gone after the `with` block unless it was put."""
        ...

    def put_file(self, name: str, file: BinaryIO) -> bool:
        """Give a scratch file its name if nothing has that name yet; False where something has."""
        ...

    def put(self, name: str, content: bytes) -> bool:
        """Write if absent, atomically; False where something has that name."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Write or overwrite, atomically."""
        ...

    def swap(self, name: str, expected: bytes | None, content: bytes) -> bool:
        """Write or overwrite, atomically, if the content is `expected` (None: absent) or ours already; else False."""
        ...

    def check_writable(self) -> None:
        """Prove that new data can be written so. Raises UserError."""
        ...

    def sweep(self) -> None:
        """Remove what dead writers left unfinished."""
        ...

    def free_bytes(self) -> int:
        """Space for new data."""
        ...

    def scratch_bytes(self) -> int:
        """Space for scratch files, on this machine."""
        ...


def open_storage(location: str) -> Storage:
    """The storage at a local path or at `s3://BUCKET/PREFIX`. Raises UserError where S3 cannot be reached or listed."""
    if location.startswith("s3://"):
        from common.storage.s3 import S3Storage
        from common.storage.s3_client import check_reachable  # boto3 takes a third of a second to import

        storage = S3Storage(location)
        check_reachable(storage.root)
        return storage
    if "://" in location:
        raise UserError(f"{location}: expected a local folder or s3://BUCKET/PREFIX")
    return LocalStorage(Path(location))
