"""Sources of images: folders and tar files, on disk or in S3. A source lists its images and reads their bytes."""

from pathlib import Path
from typing import Protocol

from common.errors import UserError
from common.sources import demo
from common.sources.listing import ImageRef, Listing, OnProgress, is_tar
from common.sources.local import LocalSource

COMPRESSED_TAR_EXTENSIONS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


class Source(Protocol):
    """An input that images are read from."""

    def list(self, on_progress: OnProgress = lambda images: None) -> Listing:
        """Return the listing of all images, sorted by uri.

        `on_progress` is called repeatedly with the number of images so far. Raises UserError if the source cannot be
        listed.
        """
        ...

    def read(self, image: ImageRef) -> bytes:
        """Return the bytes of an image.

        Raises ImageFailure if it is missing, unreadable or changed, and OSError if the machine or the network fails.
        """
        ...


def open_source(location: str, flag: str = "--input") -> Source:
    """Open the source at a location: `demo:photos`, `demo:scenes`, a folder of images and tar files, or one tar file.

    Folders and tar files are local paths or `s3://BUCKET/PREFIX`. Raises UserError for anything else; its message names
    `flag` as the setting to correct.
    """
    if location.startswith("demo:"):
        return LocalSource(demo.demo_folder(location.removeprefix("demo:")))
    compressed = location.lower().endswith(COMPRESSED_TAR_EXTENSIONS)
    hint = "unpack or decompress it first" if compressed else "name a folder or a .tar file"
    refusal = f"{flag} {location}: expected a folder of images or an uncompressed tar file; {hint}"
    if location.startswith("s3://"):
        if compressed:
            raise UserError(refusal)
        from common.sources.s3 import S3Source  # imports boto3, which takes a third of a second

        return S3Source(location)
    if "://" in location:
        raise UserError(f"{flag} {location}: expected a local path or s3://BUCKET/PREFIX")
    path = Path(location)
    if not path.exists():
        raise UserError(f"{flag} {location}: there is no such file or folder")
    if path.is_file() and not is_tar(path.name):
        raise UserError(refusal)
    return LocalSource(path)


def absolute_location(location: str) -> str:
    """Return a location that is valid in every working folder: a local path becomes absolute."""
    is_local = "://" not in location and not location.startswith("demo:")
    return str(Path(location).absolute()) if is_local else location
