"""Storage in S3: conditional puts of whole objects, so that two jobs cannot damage the same output."""

import base64
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from common.errors import UserError
from common.storage import s3_client
from common.storage.objects import ObjectState

Names = list[str]  # in the class, `list` is a method

MAX_PUT_SIZE = 5 << 30  # bytes, S3's limit for a single put
HASH_CHUNK_SIZE = 1 << 20  # bytes of a file that are hashed at once
# environment variables with the server-side encryption to request
SSE, SSE_KMS_KEY = "IMAGENET_ATTN_SSE", "IMAGENET_ATTN_SSE_KMS_KEY_ID"


class S3Storage:
    """The objects under a prefix of a bucket. `common.storage.Storage` documents the methods."""

    largest_object = MAX_PUT_SIZE

    def __init__(self, location: str) -> None:
        self.root = s3_client.parse_location(location)
        self.location = str(self.root)

    def exists(self, name: str) -> bool:
        try:
            s3_client.call("HeadObject", self._object(name))
        except FileNotFoundError:
            return False
        return True

    def stat(self, name: str) -> ObjectState:
        head = s3_client.call("HeadObject", self._object(name))
        return ObjectState(int(head["ContentLength"]), head["ETag"])

    def list(self, folder: str = "") -> list[str]:
        pages = self._list_pages(f"{folder}/" if folder else "", "/")
        return sorted(name for page in pages for name in self._object_names(page))

    def list_sizes(self) -> dict[str, int]:
        objects = (item for page in self._list_pages("", "/") for item in page.get("Contents", []))
        return {item["Key"].removeprefix(self._prefix()): item["Size"] for item in objects}

    def find_file(self, is_wanted: Callable[[str], bool]) -> str | None:
        for page in self._list_pages("", "/"):
            for name in self._object_names(page):
                if is_wanted(name):
                    return name
            for item in page.get("CommonPrefixes", []):
                folder = item["Prefix"].removeprefix(self._prefix())
                if is_wanted(folder.rstrip("/")):
                    below = (name for page in self._list_pages(folder) for name in self._object_names(page))
                    if (first := next(below, None)) is not None:
                        return first
        return None

    def open(self, name: str) -> BinaryIO:
        return s3_client.open_object(self._object(name))

    def read(self, name: str) -> bytes:
        return s3_client.get(self._object(name))[0]

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return s3_client.get_range(self._object(name), start, size)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:  # it has no name, so a killed process leaves nothing behind
            yield file

    def put_file(self, name: str, file: BinaryIO) -> bool:
        return self._put_if_absent(name, file, _md5_of_file(file))

    def put(self, name: str, content: bytes) -> bool:
        return self._put_if_absent(name, content, _md5(content))

    def replace(self, name: str, content: bytes) -> None:
        self._put(name, content, _md5(content))

    def replace_file(self, name: str, file: BinaryIO) -> None:
        self._put(name, file, _md5_of_file(file))

    def swap(self, name: str, expected: bytes | None, content: bytes) -> bool:
        if expected is None:
            return self.put(name, content) or self.read(name) == content
        found, etag = s3_client.get(self._object(name))
        if found != expected:
            return found == content
        try:
            self._put(name, content, _md5(content), IfMatch=etag)
        except s3_client.ConditionFailed:  # perhaps because of our own put, if its response was lost
            return self.read(name) == content
        return True

    def check_writable(self) -> None:
        """Check that the store accepts objects and honors conditional puts. Raises UserError."""
        probe = f".partial/{uuid.uuid4().hex}.probe"
        try:
            for _ in range(2):
                self._put(probe, b"", _md5(b""), patient=False, IfNoneMatch="*")
        except s3_client.ConditionFailed:
            return
        finally:
            # without permission to delete, an empty object stays
            with contextlib.suppress(s3_client.S3Error, FileNotFoundError):
                s3_client.call("DeleteObject", self._object(probe), False)
        raise UserError(
            f"{self.location}: this store ignores conditional puts (If-None-Match), so two jobs on one output could "
            "overwrite each other's shards unnoticed. Use a store that honors them (AWS S3 and most others do since "
            "2024), or label into a local folder and copy the data set when it is complete"
        )

    def sweep(self) -> None:
        """Do nothing: puts are atomic, so there are no unfinished objects."""

    def free_bytes(self) -> int:
        return sys.maxsize

    def scratch_bytes(self) -> int:
        return shutil.disk_usage(tempfile.gettempdir()).free

    def _list_pages(self, start: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing of the names that begin with `start`, one request each."""
        token: str | None = ""
        while token is not None:
            page = s3_client.list_page(self._object(start), token, delimiter)
            yield page
            token = page["NextContinuationToken"] if page.get("IsTruncated") else None

    def _object_names(self, page: dict[str, Any]) -> Names:
        """Return the names of the objects on a page of a listing, without the empty objects that stand for folders."""
        keys = [item["Key"] for item in page.get("Contents", [])]
        return [key.removeprefix(self._prefix()) for key in keys if not key.endswith("/")]

    def _object(self, name: str) -> s3_client.S3Location:
        return s3_client.S3Location(self.root.bucket, self._prefix() + name)

    def _prefix(self) -> str:
        return f"{self.root.key}/" if self.root.key else ""

    def _put_if_absent(self, name: str, body: Any, digest: bytes) -> bool:
        for attempt in range(1, s3_client.MAX_ATTEMPTS + 1):
            try:
                self._put(name, body, digest, IfNoneMatch="*")
                return True
            except s3_client.ConditionFailed:
                if self.exists(name):
                    return False
            time.sleep(s3_client.backoff(attempt))  # the put conflicted with another one that failed too
        raise s3_client.S3Error(
            f"{self._object(name)}: the store refuses to create this object, although it does not exist"
        )

    def _put(self, name: str, body: Any, digest: bytes, patient: bool = True, **conditions: str) -> None:
        if hasattr(body, "seek"):
            body.seek(0)
        checksum = base64.b64encode(digest).decode()  # lets the store reject content that was damaged in transit
        s3_client.call(
            "PutObject", self._object(name), patient, Body=body, ContentMD5=checksum, **conditions, **_encryption()
        )


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _md5_of_file(file: BinaryIO) -> bytes:
    file.flush()
    file.seek(0)
    md5 = hashlib.md5(usedforsecurity=False)
    while chunk := file.read(HASH_CHUNK_SIZE):
        md5.update(chunk)
    return md5.digest()


def _encryption() -> dict[str, str]:
    """Return the server-side encryption that the environment requests; otherwise the bucket's default applies."""
    requested = {"ServerSideEncryption": os.environ.get(SSE), "SSEKMSKeyId": os.environ.get(SSE_KMS_KEY)}
    return {name: value for name, value in requested.items() if value}
