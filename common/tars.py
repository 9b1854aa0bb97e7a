"""Headers of a tar file, with an error where tarfile would take damage for the end."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO


def tar_headers(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """The headers of the uncompressed tar that lies in a file from byte `start` (to `end`, where it is inside another).

    Offsets in the headers are the file's own. The caller may read elsewhere in the file meanwhile.
    Raises tarfile.ReadError on damage.
    """
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for header in tar:
            if end is not None and header.offset >= end:
                return  # an inner tar without an end mark: what follows is the outer tar's
            if end is not None and header.offset_data + header.size > end:
                raise tarfile.ReadError(f"{header.name} goes beyond the end of its tar")
            yield header
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        stopped = tar.offset
    file.seek(stopped)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged header at byte {stopped}")
