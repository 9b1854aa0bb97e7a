"""A data set's place in S3: whole objects under conditional puts, so that two jobs cannot spoil one output."""

import base64
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

from common.errors import UserError
from common.storage import s3_client

Names = list[str]

LARGEST_OBJECT = 5 << 30  # bytes that one put may have
SSE, SSE_KMS_KEY = "IMAGENET_ATTN_SSE", "IMAGENET_ATTN_SSE_KMS_KEY_ID"  # environment variables, passed through


class S3Storage:
    """The objects under a prefix of a bucket. `common.storage.Storage` tells what each method promises."""

    largest_object = LARGEST_OBJECT

    def __init__(self, location: str) -> None:
        self.root = s3_client.parse_location(location)
        self.location = str(self.root)

    def exists(self, name: str) -> bool:
        try:
            s3_client.call("HeadObject", self._place(name))
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str = "") -> list[str]:
        prefix, start = self._place(f"{folder}/" if folder else ""), len(self._folder())
        names: Names = []
        token: str | None = ""
        while token is not None:
            page = s3_client.list_page(prefix, token, "/")
            names += [item["Key"][start:] for item in page.get("Contents", []) if not item["Key"].endswith("/")]
            token = page["NextContinuationToken"] if page.get("IsTruncated") else None
        return sorted(names)

    def open(self, name: str) -> BinaryIO:
        return s3_client.open_object(self._place(name))

    def read(self, name: str) -> bytes:
        return s3_client.get(self._place(name))[0]

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return s3_client.get_range(self._place(name), start, size)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:  # without a name: a killed process leaves nothing
            yield file

    def put_file(self, name: str, file: BinaryIO) -> bool:
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()  # type: ignore[arg-type]
        return self._put_if_absent(name, file, digest)

    def put(self, name: str, content: bytes) -> bool:
        return self._put_if_absent(name, content, _md5(content))

    def replace(self, name: str, content: bytes) -> None:
        self._put(name, content, _md5(content))

    def swap(self, name: str, expected: bytes | None, content: bytes) -> bool:
        if expected is None:
            return self.put(name, content) or self.read(name) == content
        found, etag = s3_client.get(self._place(name))
        if found != expected:
            return found == content
        try:
            self._put(name, content, _md5(content), IfMatch=etag)
        except s3_client.ConditionFailed:  # perhaps by our own put, whose answer was lost
            return self.read(name) == content
        return True

    def check_writable(self) -> None:
        """Prove that the store takes objects and honours conditional puts. Raises UserError."""
        probe = f".partial/{uuid.uuid4().hex}.probe"
        try:
            for _ in range(2):
                self._put(probe, b"", _md5(b""), patient=False, IfNoneMatch="*")
        except s3_client.ConditionFailed:
            return
        finally:
            with contextlib.suppress(
                s3_client.S3Error, FileNotFoundError
            ):  # who may not delete leaves an empty object there
                s3_client.call("DeleteObject", self._place(probe), False)
        raise UserError(
            f"{self.location}: this store ignores conditional puts (If-None-Match), so two jobs on one output could "
            "overwrite each other's shards unseen. Use a store that honours them (AWS S3 and most others do since "
            "2024), or label into a local folder and copy the data set when it is complete"
        )

    def sweep(self) -> None:
        """A put is whole or not at all: there is nothing unfinished."""

    def free_bytes(self) -> int:
        return sys.maxsize

    def scratch_bytes(self) -> int:
        return shutil.disk_usage(tempfile.gettempdir()).free

    def _place(self, name: str) -> s3_client.S3Location:
        return s3_client.S3Location(
            self.root.bucket, "/".join(filter(None, [self.root.key, name])) if name else self._folder()
        )

    def _folder(self) -> str:
        return f"{self.root.key}/" if self.root.key else ""

    def _put_if_absent(self, name: str, body: Any, digest: bytes) -> bool:
        for attempt in range(1, s3_client.ATTEMPTS + 1):
            try:
                self._put(name, body, digest, IfNoneMatch="*")
                return True
            except s3_client.ConditionFailed:
                if self.exists(name):
                    return False
            time.sleep(s3_client.backoff(attempt))  # a conflict with somebody who did not succeed either
        raise s3_client.S3Error(f"{self._place(name)}: the store neither has this object nor takes it")

    def _put(self, name: str, body: Any, digest: bytes, patient: bool = True, **conditions: str) -> None:
        if hasattr(body, "seek"):
            body.seek(0)
        checksum = base64.b64encode(digest).decode()  # so that the store refuses what was damaged on the way
        s3_client.call(
            "PutObject", self._place(name), patient, Body=body, ContentMD5=checksum, **conditions, **_encryption()
        )


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _encryption() -> dict[str, str]:
    """Server-side encryption that the user asks for; without, the bucket's own default applies."""
    asked = {"ServerSideEncryption": os.environ.get(SSE), "SSEKMSKeyId": os.environ.get(SSE_KMS_KEY)}
    return {name: value for name, value in asked.items() if value}
