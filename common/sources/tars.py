"""The inside of tar files: headers, with an error where tarfile would take damage for the end, and images."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, NamedTuple

from common.errors import UserError
from common.sources.listing import ImageRef, ListingBuilder, file_kind, is_image, is_tar


class TarPart(NamedTuple):
    """A tar to be listed: a whole file, or the part of one that an inner tar takes."""

    container: str  # the file, relative to the input
    prefix: str  # of the uris of what is in it
    start: int = 0
    end: int | None = None


Tars = list[TarPart]


class TarContent(NamedTuple):
    """What was found in a tar."""

    images: list[ImageRef]
    inner: list[TarPart]
    skipped: Counter[str]


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


def list_tars(
    parts: list[TarPart], opened: Callable[[str], BinaryIO], builder: ListingBuilder, threads: int = 1
) -> None:
    """List the images in tars and in the tars inside them (ImageNet's own file is a tar of tars).

    `opened` opens a container. Raises UserError where one cannot be read or is damaged.
    """
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[TarContent]] = set()
        waiting = list(reversed(parts))
        while waiting or running:
            while waiting and len(running) < threads:
                running.add(pool.submit(_content, waiting.pop(), opened))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for content in (future.result() for future in done):
                builder.add(content.images)
                builder.skipped.update(content.skipped)
                waiting += content.inner


def _content(part: TarPart, opened: Callable[[str], BinaryIO]) -> TarContent:
    """What is in one tar, with absolute offsets."""
    content = TarContent([], [], Counter())
    try:
        with opened(part.container) as file:
            for header in tar_headers(file, part.start, part.end):
                _sort(header, part, content)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{part.container} cannot be read as an uncompressed tar file: {error}") from None
    return content


def _sort(header: tarfile.TarInfo, part: TarPart, content: TarContent) -> None:
    """An image, a tar inside, or something to be skipped?"""
    uri = part.prefix + decode_name(header.name)
    if header.isdir():
        return
    if not header.isreg():
        content.skipped["links in tars"] += 1
    elif is_tar(header.name):
        content.inner.append(TarPart(part.container, f"{uri}/", header.offset_data, header.offset_data + header.size))
    elif is_image(header.name):
        content.images.append(ImageRef(uri, header.size, part.container, header.offset_data))
    else:
        content.skipped[file_kind(uri)] += 1


def decode_name(name: str) -> str:
    """A name as Unicode; bytes that are not UTF-8 are spelt out (such a file is then reported as missing)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
