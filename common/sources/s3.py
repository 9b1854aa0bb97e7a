"""Images in S3: objects under a prefix, and the insides of tar files among them."""

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
    changed_failure,
    file_kind,
    is_image,
    is_tar,
    missing_failure,
    truncated_failure,
)
from common.sources.tars import TarPart, Tars, list_tars
from common.storage import s3_client

THREADS = 16  # that list
PAGES_AT_ONCE = 4 * THREADS  # of a thousand objects

Objects = list[dict[str, Any]]  # as boto3 lists them
DEPTH = 4  # of folders looked into for enough of them to list at the same time


class S3Source:
    """The objects under a prefix, to any depth, or a single tar. Raises UserError where it cannot be listed."""

    def __init__(self, location: str) -> None:
        self.place = s3_client.parse_location(location)
        self.location = location
        s3_client.check_reachable(self.place)
        self.single = is_tar(self.place.key) and self._size(self.place) is not None

    def list(self, seen: OnProgress = lambda images: None) -> Listing:
        builder = ListingBuilder(seen)
        tars: Tars = []
        if self.single:
            tars.append(TarPart(self.place.key.rpartition("/")[2], ""))
        else:
            for objects in self._pages():
                builder.add(self._sort(objects, builder, tars))
        list_tars(tars, self._open_tar, builder, THREADS)
        return builder.finish()

    def read(self, image: ImageRef) -> bytes:
        place = self._object(image.container or image.uri)
        for attempt in range(1, s3_client.ATTEMPTS + 1):
            try:
                data = (
                    s3_client.get(place)[0]
                    if image.container is None
                    else s3_client.get_range(place, image.offset, image.size)
                )
            except FileNotFoundError:
                raise missing_failure() from None
            except s3_client.Archived as error:
                raise ImageFailure(Reason.UNREADABLE, str(error)) from None
            if len(data) == image.size:
                return data
            size = self._size(place)
            if size is None:
                raise missing_failure()
            if image.container is None and size != image.size:
                raise changed_failure(image, size)
            if image.container is not None and size < image.offset + image.size:
                raise truncated_failure(image, max(0, size - image.offset))
            time.sleep(s3_client.backoff(attempt))  # an answer cut short on its way
        raise s3_client.S3Error(
            f"{place}: {len(data)} of {image.size} bytes came, {s3_client.ATTEMPTS} times; check the network"
        )

    def _object(self, name: str) -> s3_client.S3Location:
        return self.place if self.single else s3_client.S3Location(self.place.bucket, self._prefix() + name)

    def _prefix(self) -> str:
        return f"{self.place.key}/" if self.place.key else ""

    def _open_tar(self, name: str) -> BinaryIO:
        return s3_client.open_object(self._object(name))

    def _size(self, place: s3_client.S3Location) -> int | None:
        try:
            return int(s3_client.call("HeadObject", place)["ContentLength"])
        except FileNotFoundError:
            return None

    def _sort(self, objects: Objects, builder: ListingBuilder, tars: Tars) -> Iterator[ImageRef]:
        """Images among objects; tars are collected, other files counted."""
        start = len(self._prefix())
        for item in objects:
            uri = item["Key"][start:]
            if not uri or uri.endswith("/"):
                continue  # what consoles make to show an empty folder
            if is_tar(uri):
                tars.append(TarPart(uri, f"{uri}/"))
            elif is_image(uri):
                yield ImageRef(uri, int(item["Size"]), None, 0)
            else:
                builder.skipped[file_kind(uri)] += 1

    def _pages(self) -> Iterator[Objects]:
        """Every object, by the page: folder by folder, until there are enough folders to list many at a time."""
        folders = [self._prefix()]
        for _ in range(DEPTH):
            if len(folders) >= THREADS:
                break
            below = []
            for page in self._listed(folders, "/"):
                yield page.get("Contents", [])
                below += [found["Prefix"] for found in page.get("CommonPrefixes", [])]
            folders = below
        for page in self._listed(folders, ""):
            yield page.get("Contents", [])

    def _listed(self, folders: Iterable[str], delimiter: str) -> Iterator[dict[str, Any]]:
        """The pages of many folders' listings, several at a time; only so many are held at once."""
        waiting = deque((folder, "") for folder in folders)
        with ThreadPoolExecutor(THREADS) as pool:
            while waiting:
                asked = [waiting.popleft() for _ in range(min(PAGES_AT_ONCE, len(waiting)))]
                places = [s3_client.S3Location(self.place.bucket, folder) for folder, _ in asked]
                tokens = [token for _, token in asked]
                for (folder, _), page in zip(
                    asked, pool.map(s3_client.list_page, places, tokens, repeat(delimiter)), strict=True
                ):
                    yield page
                    if page.get("IsTruncated"):
                        waiting.append((folder, page["NextContinuationToken"]))
