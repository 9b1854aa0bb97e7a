"""One small interface to data sets in a local folder or in S3, with atomic writes, and to public copies over https."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from common.errors import UserError
from common.storage.local import LocalStorage
from common.storage.objects import ObjectState


class ReadableStorage(Protocol):
    """Named objects that can be read. Names are relative, with `/` as separator."""

    location: str  # as the user named it

    def exists(self, name: str) -> bool:
        """Return whether there is an object with this name."""
        ...

    def stat(self, name: str) -> ObjectState:
        """Return an object's size and version without reading it. Raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading, seekable. Raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """Return an object's whole content. Raises FileNotFoundError."""
        ...

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer only at the object's end. Raises FileNotFoundError."""
        ...


class Storage(ReadableStorage, Protocol):
    """Named objects in a folder or under an S3 prefix. A name appears only when its content is complete."""

    largest_object: int  # bytes

    def list(self, folder: str = "") -> list[str]:
        """Return the sorted names of the objects directly in a folder; an absent folder has none."""
        ...

    def list_sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the objects at the top, by name, without those in folders."""
        ...

    def find_file(self, is_wanted: Callable[[str], bool]) -> str | None:
        """Return the name of an object that is wanted, or that lies in a wanted folder at any depth; None without one.

        `is_wanted` is called with the names of the objects and folders at the top, not with those below.
        """
        ...

    def scratch(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a new local file for writing, removed after the `with` block. `put_file` stores its content."""
        ...

    def put_file(self, name: str, file: BinaryIO) -> bool:
        """Store a scratch file under a name that is not in use, atomically. Return False if the name is in use."""
        ...

    def put(self, name: str, content: bytes) -> bool:
        """Store content under a name that is not in use, atomically. Return False if the name is in use."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Store content under a name, atomically, whether or not the name is in use."""
        ...

    def replace_file(self, name: str, file: BinaryIO) -> None:
        """Store a scratch file under a name, atomically, whether or not the name is in use."""
        ...

    def swap(self, name: str, expected: bytes | None, content: bytes) -> bool:
        """Replace an object's content atomically if it is still `expected` (None: the object is absent).

        Return whether the object has the new content afterwards; this includes an object that already had it.
        """
        ...

    def check_writable(self) -> None:
        """Write and remove a probe object. Raises UserError if the storage does not accept it."""
        ...

    def sweep(self) -> None:
        """Remove the unfinished files of writers that died."""
        ...

    def free_bytes(self) -> int:
        """Return the number of bytes available for new objects."""
        ...

    def scratch_bytes(self) -> int:
        """Return the number of bytes available for scratch files on this machine."""
        ...


def open_storage(location: str) -> Storage:
    """Return the storage at a local path or at `s3://BUCKET/PREFIX`. Raises UserError if S3 cannot list the bucket."""
    if location.startswith("s3://"):
        from common.storage.s3 import S3Storage  # imports boto3, which takes a third of a second
        from common.storage.s3_client import check_reachable

        storage = S3Storage(location)
        check_reachable(storage.root)
        return storage
    if "://" in location:
        raise UserError(f"{location}: expected a local folder or s3://BUCKET/PREFIX")
    return LocalStorage(Path(location))
