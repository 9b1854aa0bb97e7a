"""Images in S3: objects under a prefix, including the images inside tar files."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, BinaryIO

from common.errors import ImageFailure, Reason
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
from common.sources.tars import TarPart, Tars, list_tars
from common.storage import s3_client

LISTING_THREADS = 16
PAGES_IN_FLIGHT = 4 * LISTING_THREADS  # listing pages (of up to 1,000 objects each) requested at the same time
MAX_FOLDER_DEPTH = 4  # levels of folders explored to find enough of them to list in parallel

Objects = list[dict[str, Any]]  # the "Contents" of a listing page, as boto3 returns them


class S3Source:
    """Source of the images under an S3 prefix, at any depth and in tar files, or in a single tar object.

    Raises UserError if the bucket cannot be listed.
    """

    def __init__(self, location: str) -> None:
        self.root = s3_client.parse_location(location)
        s3_client.check_reachable(self.root)
        self.single_tar = is_tar(self.root.key) and self._size(self.root) is not None

    def list(self, on_progress: OnProgress = lambda images: None) -> Listing:
        builder = ListingBuilder(on_progress)
        tars: Tars = []
        if self.single_tar:
            tars.append(TarPart(self.root.key.rpartition("/")[2], ""))
        else:
            for objects in self._pages():
                builder.add(self._select_images(objects, builder, tars))
        list_tars(tars, self._open_tar, builder, LISTING_THREADS)
        return builder.finish()

    def read(self, image: ImageRef) -> bytes:
        location = self._object(image.container or image.uri)
        for attempt in range(1, s3_client.MAX_ATTEMPTS + 1):
            try:
                data = (
                    s3_client.get(location)[0]
                    if image.container is None
                    else s3_client.get_range(location, image.offset, image.size)
                )
            except FileNotFoundError:
                raise missing_failure() from None
            except s3_client.ArchivedError as error:
                raise ImageFailure(Reason.UNREADABLE, str(error)) from None
            if len(data) == image.size:
                return data
            size = self._size(location)
            if size is None:
                raise missing_failure()
            check_size(image, size)
            time.sleep(s3_client.backoff(attempt))  # the object is unchanged, so the response was cut short
        raise s3_client.S3Error(
            f"{location}: received {len(data)} of {image.size} bytes in each of {s3_client.MAX_ATTEMPTS} attempts; "
            "check the network"
        )

    def _object(self, name: str) -> s3_client.S3Location:
        return self.root if self.single_tar else s3_client.S3Location(self.root.bucket, self._prefix() + name)

    def _prefix(self) -> str:
        return f"{self.root.key}/" if self.root.key else ""

    def _open_tar(self, name: str) -> BinaryIO:
        return s3_client.open_object(self._object(name))

    def _size(self, location: s3_client.S3Location) -> int | None:
        """Return an object's size in bytes, or None if it does not exist."""
        try:
            return int(s3_client.call("HeadObject", location)["ContentLength"])
        except FileNotFoundError:
            return None

    def _select_images(self, objects: Objects, builder: ListingBuilder, tars: Tars) -> Iterator[ImageRef]:
        """Yield the images among objects; append the tars to `tars` and count other files in `builder`."""
        start = len(self._prefix())
        for item in objects:
            uri = item["Key"][start:]
            if not uri or uri.endswith("/"):
                continue  # the placeholder object that S3 consoles create for an empty folder
            if is_tar(uri):
                tars.append(TarPart(uri, f"{uri}/"))
            elif is_image(uri):
                yield ImageRef(uri, int(item["Size"]), None, 0)
            else:
                builder.skipped[file_kind(uri)] += 1

    def _pages(self) -> Iterator[Objects]:
        """Yield all objects, page by page.

        The pages of one S3 prefix can only be listed in sequence. Therefore first descend folder by folder, until there
        are at least `LISTING_THREADS` folders, and then list everything below these in parallel.
        """
        folders = [self._prefix()]
        for _ in range(MAX_FOLDER_DEPTH):
            if len(folders) >= LISTING_THREADS:
                break
            subfolders = []
            for page in self._list_pages(folders, "/"):
                yield page.get("Contents", [])
                subfolders += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            folders = subfolders
        for page in self._list_pages(folders, ""):
            yield page.get("Contents", [])

    def _list_pages(self, folders: Iterable[str], delimiter: str) -> Iterator[dict[str, Any]]:
        """Yield the listing pages of many folders, requesting at most `PAGES_IN_FLIGHT` at the same time."""
        waiting = deque((folder, "") for folder in folders)
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            while waiting:
                requests = [waiting.popleft() for _ in range(min(PAGES_IN_FLIGHT, len(waiting)))]
                locations = [s3_client.S3Location(self.root.bucket, folder) for folder, _ in requests]
                tokens = [token for _, token in requests]
                pages = pool.map(s3_client.list_page, locations, tokens, repeat(delimiter))
                for (folder, _), page in zip(requests, pages, strict=True):
                    yield page
                    if page.get("IsTruncated"):
                        waiting.append((folder, page["NextContinuationToken"]))
