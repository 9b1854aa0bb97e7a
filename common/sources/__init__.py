"""Where images come from: folders and tar files, on disk or in S3. Each lists its images and reads them again."""

from pathlib import Path
from typing import Protocol

from common.errors import UserError
from common.sources import demo
from common.sources.listing import ImageRef, Listing, OnProgress, is_tar
from common.sources.local import LocalSource

COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


class Source(Protocol):
    """A place that images come from."""

    def list(self, seen: OnProgress = lambda images: None) -> Listing:
        """Every image, sorted by uri; `seen` is told of progress. Raises UserError where the place cannot be listed."""
        ...

    def read(self, image: ImageRef) -> bytes:
        """An image's bytes. Raises ImageFailure: missing, unreadable, changed, empty."""
        ...


def open_source(location: str, flag: str = "--input") -> Source:
    """The images of `demo:photos`, `demo:scenes`, a folder (with tar files or without), or one tar file.

    Folders and tar files are local paths or `s3://BUCKET/PREFIX`. Raises UserError, which names `flag`.
    """
    if location.startswith("demo:"):
        return LocalSource(demo.demo_folder(location.removeprefix("demo:")))
    compressed = location.lower().endswith(COMPRESSED_TAR)
    hint = "unpack or decompress it first" if compressed else "name a folder or a .tar file"
    refusal = f"{flag} {location}: expected a folder of images or an uncompressed tar file; {hint}"
    if location.startswith("s3://"):
        if compressed:
            raise UserError(refusal)
        from common.sources.s3 import S3Source  # boto3 takes a third of a second to import

        return S3Source(location)
    if "://" in location:
        raise UserError(f"{flag} {location}: expected a local path or s3://BUCKET/PREFIX")
    path = Path(location)
    if not path.exists():
        raise UserError(f"{flag} {location}: there is no such file or folder")
    if path.is_file() and not is_tar(path.name):
        raise UserError(refusal)
    return LocalSource(path)
