"""Reading the headers of tar files, and listing the images in them.

The standard library's tarfile takes a damaged header for the end of the archive; this module raises an error instead.
"""

import itertools
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, NamedTuple

from common.errors import UserError
from common.sources.labeled import MAX_SAMPLE_MEMBERS, is_shard, list_photographs
from common.sources.listing import ImageRef, ListingBuilder, file_kind, is_image, is_tar


class TarPart(NamedTuple):
    """A tar to list: a whole file, or the byte range of a file that holds a tar inside another tar."""

    container: str  # path of the file, relative to the input
    prefix: str  # prepended to the names of the members to form their uris
    start: int = 0
    end: int | None = None


Tars = list[TarPart]


class TarContent(NamedTuple):
    """The members of a tar: its images, the tars inside it, and the numbers of skipped members by kind."""

    images: list[ImageRef]
    inner: list[TarPart]
    skipped: Counter[str]


class _TarFile(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # not declared in typeshed


def tar_headers(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of an uncompressed tar that begins at byte `start` of a file.

    `end` bounds a tar that lies inside another tar. The offsets in the headers count from the beginning of the file.
    The caller may seek and read in the file between two headers. Raises tarfile.ReadError if the tar is damaged.
    """
    file.seek(start)
    with _TarFile.open(fileobj=file, mode="r:") as tar:
        for header in tar:
            if end is not None and header.offset >= end:
                return  # an inner tar without an end marker: this header belongs to the outer tar
            # a sparse file's header has the size of the whole file, and its data in the tar is smaller
            if end is not None and not header.issparse() and header.offset_data + header.size > end:
                raise tarfile.ReadError(f"{header.name} extends beyond the end of its tar")
            yield header
            tar.members = []  # otherwise tarfile would hold all headers in memory
        stopped = tar.offset
    file.seek(stopped)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged header at byte {stopped}")


def list_tars(
    parts: list[TarPart], open_container: Callable[[str], BinaryIO], builder: ListingBuilder, threads: int = 1
) -> None:
    """Add the images in tars to `builder`, including those in tars inside tars (ImageNet's own file is a tar of tars).

    `open_container` opens the file with a given path for reading; at most `threads` tars are read at the same time.
    Raises UserError if a tar cannot be read or is damaged.
    """
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[TarContent]] = set()
        waiting = list(reversed(parts))
        while waiting or running:
            while waiting and len(running) < threads:
                running.add(pool.submit(_read_content, waiting.pop(), open_container))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for content in (future.result() for future in done):
                builder.add(content.images)
                builder.skipped.update(content.skipped)
                waiting += content.inner


def _read_content(part: TarPart, open_container: Callable[[str], BinaryIO]) -> TarContent:
    """Read the headers of one tar and classify its members."""
    content = TarContent([], [], Counter())
    try:
        with open_container(part.container) as file:
            headers = tar_headers(file, part.start, part.end)
            first = list(itertools.islice(headers, MAX_SAMPLE_MEMBERS + 1))  # perhaps one for a folder
            headers = itertools.chain(first, headers)
            if is_shard(first):
                folder = part.prefix.rstrip("/").rpartition("/")[0]
                prefix = f"{folder}/" if folder else ""
                content.images.extend(list_photographs(headers, file, part.container, prefix, content.skipped))
            else:
                _add_members(headers, part, content)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{part.container} cannot be read as an uncompressed tar file: {error}") from None
    return content


def _add_members(headers: Iterable[tarfile.TarInfo], part: TarPart, content: TarContent) -> None:
    """Add the members of a tar to the images, inner tars or skipped files of `content`.

    Of several members with one name the last one counts, and a hard link is the file that its target is at this point
    of the tar, as if the tar were extracted.
    """
    members: dict[str, ImageRef | str] = {}  # by uri: the place of a file of any kind, or why it is skipped
    for header in headers:
        if header.isdir():
            continue
        uri = part.prefix + decode_name(header.name)
        if uri in members:
            content.skipped["replaced files in tars"] += 1
        if header.islnk():
            target = members.get(part.prefix + decode_name(header.linkname), "links in tars")
            members[uri] = target._replace(uri=uri) if isinstance(target, ImageRef) else target
        elif not header.isreg():
            members[uri] = "links in tars"
        elif header.issparse():  # the tar holds only parts of it, so its bytes are not a range of the tar
            members[uri] = "sparse files in tars"
        else:
            members[uri] = ImageRef(uri, header.size, part.container, header.offset_data)
    for uri, member in members.items():
        if isinstance(member, str):
            content.skipped[member] += 1
        elif is_tar(uri):
            content.inner.append(TarPart(part.container, f"{uri}/", member.offset, member.offset + member.size))
        elif is_image(uri):
            content.images.append(member)
        else:
            content.skipped[file_kind(uri)] += 1


def decode_name(name: str) -> str:
    """Return a file name as valid Unicode: bytes that are not UTF-8 are written as escapes such as `\\xe9`.

    A file with such a name in a folder cannot be opened by its uri, so it is reported as missing when it is read.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
