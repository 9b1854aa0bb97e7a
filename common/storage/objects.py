"""What all storages share about their objects: size and version, and reading a remote object as a file."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple


class ObjectState(NamedTuple):
    """Size of an object in bytes, and a text that changes whenever the object is replaced; None if unknown."""

    size: int
    version: str | None


class RangeReader(io.RawIOBase):
    """An object as a raw, seekable file. Each read is one call of `read_range(start, size)`, which returns bytes."""

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        self.size = size
        self.position = 0
        self._read_range = read_range

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.position)
        if length <= 0:
            return 0
        content = self._read_range(self.position, length)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
