"""S3 storage and sources against a real server, with the faults of real networks."""

import base64
import hashlib
import io
import multiprocessing
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from common.errors import ImageFailure, Reason, UserError
from common.sources import open_source
from common.sources.listing import ImageRef
from common.storage import open_storage, s3_client
from common.storage.s3 import SSE, SSE_KMS_KEY, S3Storage
from tests.support.faults import DropHeader, FaultProxy, Hang, Reset, Status, Truncate
from tests.support.s3_server import S3Server

SECRET = "not-to-be-seen-anywhere"


@pytest.fixture(autouse=True)
def fresh_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a new client, which reads the environment when it is created, and almost no pauses for retries."""
    monkeypatch.setattr(s3_client, "backoff", lambda attempt: 0.01)
    s3_client.get_client.cache_clear()
    yield
    s3_client.get_client.cache_clear()


@pytest.fixture
def storage(bucket: str, s3_environment: dict[str, str]) -> S3Storage:
    return open_storage(f"s3://{bucket}/data/set")


@pytest.fixture
def proxy(s3: S3Server, storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Redirect requests to the storage's server through a proxy that can inject faults."""
    with FaultProxy(s3) as running:
        set_environment(running.environment(), monkeypatch)
        yield running


def set_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3_client.get_client.cache_clear()


def put_file(storage: S3Storage, name: str, content: bytes) -> bool:
    with storage.scratch() as file:
        file.write(content)
        return storage.put_file(name, file)


def test_objects_are_read_back_and_listed(storage: S3Storage) -> None:
    large = os.urandom(5 << 20)
    assert storage.put("plan.json", b"{}")
    assert put_file(storage, "train-000000.tar", large)
    storage.replace("records/odd name é <b>.json", b"1")
    assert (storage.read("plan.json"), storage.read("train-000000.tar")) == (b"{}", large)
    assert storage.list() == ["plan.json", "train-000000.tar"]
    assert storage.list("records") == ["records/odd name é <b>.json"]
    assert storage.list("nothing") == []
    assert storage.exists("plan.json")
    assert not storage.exists("absent")
    assert storage.location.endswith("/data/set")


def test_state_of_an_object_is_its_size_and_version(storage: S3Storage) -> None:
    storage.put("a", b"content")
    before = storage.stat("a")
    assert before.size == 7
    assert storage.stat("a") == before
    storage.replace("a", b"another")
    assert storage.stat("a") != before
    with pytest.raises(FileNotFoundError):
        storage.stat("b")


def test_put_does_not_overwrite(storage: S3Storage) -> None:
    assert storage.put("name", b"first")
    assert not storage.put("name", b"second")
    assert not put_file(storage, "name", b"third")
    assert storage.read("name") == b"first"


def test_one_of_many_threads_that_put_a_name_succeeds(storage: S3Storage) -> None:
    results: list[tuple[int, bool]] = []
    threads = [
        threading.Thread(target=lambda index=index: results.append((index, storage.put("name", b"%d" % index))))
        for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [index for index, won in results if won]
    assert len(winners) == 1
    assert storage.read("name") == b"%d" % winners[0]


def test_swap_replaces_only_expected_content(storage: S3Storage) -> None:
    assert storage.swap("manifest.json", None, b"1")
    assert not storage.swap("manifest.json", None, b"2")
    assert not storage.swap("manifest.json", b"other", b"2")
    assert storage.swap("manifest.json", b"1", b"2")
    assert storage.swap("manifest.json", b"1", b"2"), "the object already has the new content"
    assert storage.read("manifest.json") == b"2"


def test_absent_object_is_not_found(storage: S3Storage) -> None:
    with pytest.raises(FileNotFoundError, match="data/set/absent"):
        storage.read("absent")
    with pytest.raises(FileNotFoundError):
        storage.open("absent")


def test_open_object_is_seekable(storage: S3Storage) -> None:
    content = os.urandom(9 << 20)
    put_file(storage, "big", content)
    with storage.open("big") as file:
        assert file.seek(-1000, os.SEEK_END) == len(content) - 1000
        assert file.read() == content[-1000:]
        assert file.read(10) == b""
        file.seek(4_000_000)
        assert file.read(5_000_000) == content[4_000_000:9_000_000]
    with storage.open("big") as file:
        assert file.read() == content


def test_object_replaced_while_read_is_an_error(storage: S3Storage) -> None:
    storage.replace("big", b"1" * (9 << 20))
    with storage.open("big") as file:
        file.read(10)
        storage.replace("big", b"2" * (9 << 20))
        with pytest.raises(s3_client.S3Error, match="was replaced while it was read"):
            file.read()


def test_check_writable_leaves_no_object(storage: S3Storage) -> None:
    storage.check_writable()
    assert storage.list(".partial") == []


def test_objects_are_complete_despite_faults(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.random(
        seed=1,
        rate=0.4,
        faults=[Status(500, "InternalError"), Status(503, "SlowDown"), Reset(), Reset(after=True), Truncate(1000)],
    )
    contents = {f"train-{index:06d}.tar": os.urandom(300_000 + index) for index in range(12)}
    for name, content in contents.items():
        assert put_file(storage, name, content) or storage.read(name) == content
    assert storage.list() == sorted(contents)
    assert {name: storage.read(name) for name in contents} == contents
    for name, content in contents.items():
        with storage.open(name) as file:
            assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()
    assert any(request.faults for request in proxy.requests)


def test_object_is_stored_if_the_response_to_its_put_is_lost(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(Reset(after=True), when=lambda request: request.method == "PUT", times=1)
    assert not storage.put("record", b"ours")  # the name is in use: by the retried put itself
    assert storage.read("record") == b"ours"
    proxy.add(Reset(after=True), when=lambda request: request.method == "PUT", times=1)
    assert storage.swap("record", b"ours", b"new")


def test_body_truncated_at_every_attempt_is_an_error(storage: S3Storage, proxy: FaultProxy) -> None:
    storage.put("record", b"0123456789")
    proxy.add(Truncate(4), when=lambda request: request.path.endswith("record"), times=None)
    with pytest.raises(s3_client.S3Error, match=r"data/set/record: GetObject at http.* failed"):
        storage.read("record")


def test_store_without_conditional_puts_is_an_error(storage: S3Storage, proxy: FaultProxy) -> None:
    storage.check_writable()
    proxy.add(DropHeader("If-None-Match"), times=None)
    with pytest.raises(UserError, match="ignores conditional puts"):
        storage.check_writable()
    assert storage.list(".partial") == []


def test_endpoint_that_hangs_is_an_error_within_a_minute(bucket: str, proxy: FaultProxy) -> None:
    proxy.add(Hang(), times=None)
    begin = time.monotonic()
    with pytest.raises(s3_client.S3Error, match=r"failed: Read timeout .* Check AWS_ENDPOINT_URL"):
        open_storage(f"s3://{bucket}/data")
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Status(400, "ExpiredToken"), r"ExpiredToken \(400\).* have expired: renew them"),
        (Status(403, "AccessDenied"), r"AccessDenied \(403\).* do not grant s3:ListBucket"),
        (Status(403, "InvalidAccessKeyId"), "are not valid at this endpoint"),
        (Status(403, "RequestTimeTooSkewed"), "clock"),
        (Status(301, "PermanentRedirect"), "another region: set AWS_DEFAULT_REGION"),
        (Status(404, "NoSuchBucket"), "Check the bucket's name"),
    ],
)
def test_error_of_the_store_says_what_to_check(fault: Status, message: str, bucket: str, proxy: FaultProxy) -> None:
    proxy.add(fault, when=lambda request: request.method == "GET", times=None)
    with pytest.raises(
        s3_client.S3Error, match=f"s3://{bucket}/data: ListObjectsV2 at {proxy.endpoint} failed: .*{message}"
    ):
        open_storage(f"s3://{bucket}/data")


def test_wrong_buckets_locations_and_endpoints_are_errors_without_secrets(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(s3_client.S3Error, match="NoSuchBucket"):
        open_storage("s3://no-such-bucket-here/data")
    with pytest.raises(UserError, match="expected s3://BUCKET/PREFIX"):
        open_storage("s3:///data")
    with pytest.raises(UserError, match="found an @") as error:
        open_storage(f"s3://key:{SECRET}@bucket/data")
    assert SECRET not in str(error.value)
    set_environment({"AWS_ENDPOINT_URL": f"http://user:{SECRET}@127.0.0.1:9"}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="AWS_ENDPOINT_URL"):
        open_storage("s3://bucket/data")


def test_absent_wrong_and_insufficient_credentials_have_different_errors(
    guarded_s3: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = guarded_s3.new_bucket()
    set_environment(guarded_s3.readonly_environment(), monkeypatch)
    storage = open_storage(f"s3://{bucket}/data")
    with pytest.raises(s3_client.S3Error, match="do not grant s3:PutObject"):
        storage.check_writable()
    set_environment({"AWS_SECRET_ACCESS_KEY": SECRET}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="are not valid at this endpoint") as error:
        open_storage(f"s3://{bucket}/data")
    assert SECRET not in str(error.value)
    set_environment({"AWS_ACCESS_KEY_ID": "nobody"}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="InvalidAccessKeyId"):
        open_storage(f"s3://{bucket}/data")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    set_environment({"HOME": str(tmp_path)}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="Set AWS_ACCESS_KEY_ID"):
        open_storage(f"s3://{bucket}/data")


@pytest.mark.parametrize(
    ("endpoint", "configured", "url"),
    [
        ("http://store.test", "", "http://store.test/bucket/key"),
        ("http://store.test", "s3 =\n    addressing_style = virtual", "http://bucket.store.test/key"),
        ("http://store.test", "s3 =\n    addressing_style = path", "http://store.test/bucket/key"),
        (None, "", "https://bucket.s3.amazonaws.com/key"),
        (None, "s3 =\n    addressing_style = path", "https://s3.eu-west-1.amazonaws.com/bucket/key"),
    ],
)
def test_addressing_style_is_that_of_the_aws_configuration(
    endpoint: str | None,
    configured: str,
    url: str,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "config").write_text(f"[profile ours]\nregion = eu-west-1\n{configured}\n")
    for name in s3_environment:
        monkeypatch.delenv(name)
    environment = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "ours"}
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    set_environment(environment | keys | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}), monkeypatch)
    signed = s3_client.get_client().generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert signed.partition("?")[0] == url


def test_modification_times_are_not_parsed(storage: S3Storage) -> None:
    storage.replace("object", b"1")
    (entry,) = s3_client.list_page(s3_client.parse_location(storage.location))["Contents"]
    assert isinstance(entry["LastModified"], str)


def test_put_requests_encryption_and_sends_checksum(
    storage: S3Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.add(Status(400, "NotHere"), when=lambda request: request.method == "PUT", times=None)
    set_environment({SSE: "aws:kms", SSE_KMS_KEY: "my-key"}, monkeypatch)
    with pytest.raises(s3_client.S3Error):
        put_file(storage, "name", b"content")
    (sent,) = [request.headers for request in proxy.requests if request.method == "PUT"]
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "my-key"
    assert (sent["If-None-Match"], sent["Content-Length"]) == ("*", "7")
    assert sent["Content-MD5"] == base64.b64encode(hashlib.md5(b"content").digest()).decode()


def test_no_encryption_is_requested_by_default(
    storage: S3Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SSE, raising=False)
    monkeypatch.delenv(SSE_KMS_KEY, raising=False)
    storage.put("name", b"content")
    (sent,) = [request.headers for request in proxy.requests if request.method == "PUT"]
    assert not [name for name in sent if name.lower().startswith("x-amz-server-side-encryption")]


def test_object_that_the_store_refuses_to_create_is_an_error_after_all_attempts(
    storage: S3Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(s3_client, "backoff", lambda attempt: pauses.append(attempt) or 0)
    proxy.add(Status(412, "PreconditionFailed"), when=lambda request: request.method == "PUT", times=None)
    with pytest.raises(s3_client.S3Error, match=r"data/set/name: the store refuses to create this object"):
        storage.put("name", b"content")
    assert sum(request.method == "PUT" for request in proxy.requests) == s3_client.MAX_ATTEMPTS
    assert pauses == list(range(1, s3_client.MAX_ATTEMPTS + 1))


def test_whole_bucket_is_a_storage(bucket: str, s3_environment: dict[str, str]) -> None:
    storage = open_storage(f"s3://{bucket}")
    assert storage.put("x", b"1")
    assert storage.put("records/y", b"2")
    assert (storage.list(), storage.list("records")) == (["x"], ["records/y"])
    assert s3_client.get_client().get_object(Bucket=bucket, Key="records/y")["Body"].read() == b"2"


def test_all_pages_of_a_listing_are_read_without_folder_markers(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {
        "": {"Contents": [{"Key": "data/set/records/b"}], "IsTruncated": True, "NextContinuationToken": "2"},
        "2": {"IsTruncated": True, "NextContinuationToken": "3"},
        "3": {"Contents": [{"Key": "data/set/records/"}, {"Key": "data/set/records/a"}], "IsTruncated": False},
    }
    requested = []

    def list_page(prefix: s3_client.S3Location, token: str, delimiter: str) -> dict[str, object]:
        requested.append((prefix.key, token, delimiter))
        return pages[token]

    monkeypatch.setattr(s3_client, "list_page", list_page)
    assert storage.list("records") == ["records/a", "records/b"]
    assert requested == [("data/set/records/", token, "/") for token in pages]


def test_space_in_the_bucket_is_not_limited_and_scratch_files_are_local(storage: S3Storage, tmp_path: Path) -> None:
    assert storage.free_bytes() == sys.maxsize
    assert storage.largest_object == 5 * 2**30
    free = os.statvfs(tempfile.gettempdir())
    assert storage.scratch_bytes() == pytest.approx(free.f_bavail * free.f_frsize, rel=0.1)


def test_unfinished_probe_that_may_not_be_deleted_is_no_error(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(Status(403, "AccessDenied"), when=lambda request: request.method == "DELETE", times=None)
    storage.check_writable()
    assert [request.method for request in proxy.requests].count("PUT") == 2


@pytest.fixture
def photographs(s3: S3Server, bucket: str, s3_environment: dict[str, str]) -> dict[str, bytes]:
    """Upload images in two class folders, in a tar of images and in a tar of tars. Return their content by uri."""
    objects = {f"{name}/{index} é <i>.jpg": os.urandom(2000 + index) for name in ("a", "b") for index in range(3)}
    inner, outer = io.BytesIO(), io.BytesIO()
    members = {f"x{index}.JPEG": os.urandom(700 + index) for index in range(4)}
    write_tar(inner, members)
    write_tar(outer, {"c.tar": inner.getvalue(), "notes.txt": b"not an image"})
    client = s3_client.get_client()
    for key, content in {**objects, "d.tar": inner.getvalue(), "all.tar": outer.getvalue(), "readme.md": b"x"}.items():
        client.put_object(Bucket=bucket, Key=f"in/{key}", Body=content)
    client.put_object(Bucket=bucket, Key="in/folder/", Body=b"")
    client.put_object(Bucket=bucket, Key="in-other-prefix/z.jpg", Body=b"z")
    in_tars = {f"{tar}/{name}": content for tar in ("d.tar", "all.tar/c.tar") for name, content in members.items()}
    return objects | in_tars


def write_tar(file: io.BytesIO, members: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def refs_of(table: pa.Table) -> list[ImageRef]:
    return [ImageRef(**row) for row in table.to_pylist()]


def test_objects_and_tar_members_are_listed_and_read(photographs: dict[str, bytes], bucket: str) -> None:
    source = open_source(f"s3://{bucket}/in/")
    listing = source.list()
    images = refs_of(listing.table)
    assert [image.uri for image in images] == sorted(photographs, key=str.encode)
    assert {image.uri: source.read(image) for image in images} == photographs
    assert listing.skipped == {".md": 1, ".txt": 1}


def test_single_tar_is_listed_and_read(photographs: dict[str, bytes], bucket: str) -> None:
    source = open_source(f"s3://{bucket}/in/all.tar")
    images = refs_of(source.list().table)
    assert [image.uri for image in images] == [f"c.tar/x{index}.JPEG" for index in range(4)]
    assert [source.read(image) for image in images] == [photographs[f"all.tar/{image.uri}"] for image in images]
    with pytest.raises(UserError, match="unpack or decompress"):
        open_source(f"s3://{bucket}/in/all.tar.gz")


def test_listing_and_reading_succeed_despite_faults(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    expected = open_source(f"s3://{bucket}/in").list()
    proxy.random(seed=2, rate=0.4, faults=[Status(503, "SlowDown"), Reset(), Truncate(300)])
    source = open_source(f"s3://{bucket}/in")
    assert source.list().table.equals(expected.table)
    proxy.clear()
    silent_truncation = Truncate(300, honest=False)  # HTTP does not reveal it, but the listing has the size
    proxy.add(silent_truncation, when=lambda request: request.method == "GET" and "in/" in request.path, times=4)
    assert {image.uri: source.read(image) for image in refs_of(expected.table)} == photographs
    assert any(silent_truncation in request.faults for request in proxy.requests)


def test_listed_object_that_is_gone_or_changed_is_a_failure(
    photographs: dict[str, bytes], bucket: str, s3: S3Server
) -> None:
    source = open_source(f"s3://{bucket}/in/a")
    gone, cut, other = refs_of(source.list().table)
    s3_client.get_client().delete_object(Bucket=bucket, Key=f"in/a/{gone.uri}")
    s3_client.get_client().put_object(Bucket=bucket, Key=f"in/a/{cut.uri}", Body=b"short")
    for image, reason in ((gone, Reason.MISSING), (cut, Reason.CHANGED)):
        with pytest.raises(ImageFailure) as failure:
            source.read(image)
        assert failure.value.reason == reason
    assert source.read(other) == photographs[f"a/{other.uri}"]
    tar = open_source(f"s3://{bucket}/in/d.tar")
    image = ImageRef("x3.JPEG", 703, "d.tar", 10_000_000)
    with pytest.raises(ImageFailure, match="holds only 0 of its 703 bytes"):
        tar.read(image)


def test_denied_object_is_an_error_not_an_image_failure(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    source = open_source(f"s3://{bucket}/in/a")
    proxy.add(Status(403, "AccessDenied"), when=lambda request: request.method == "GET", times=None)
    with pytest.raises(s3_client.S3Error, match="do not grant s3:GetObject"):
        source.read(refs_of_first(photographs))


def test_archived_object_is_an_image_failure(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    source = open_source(f"s3://{bucket}/in/a")
    proxy.add(Status(403, "InvalidObjectState"), when=lambda request: request.method == "GET", times=None)
    with pytest.raises(ImageFailure, match=r"unreadable: .*restore it first"):
        source.read(refs_of_first(photographs))


def test_read_range_sends_one_request(storage: S3Storage, proxy: FaultProxy) -> None:
    storage.replace("object", bytes(range(100)))
    before = len(proxy.requests)
    assert storage.read_range("object", 10, 5) == bytes(range(10, 15))
    assert storage.read_range("object", 98, 5) == bytes([98, 99])
    assert len(proxy.requests) == before + 2


def refs_of_first(photographs: dict[str, bytes]) -> ImageRef:
    uri = next(iter(photographs))
    return ImageRef(uri.removeprefix("a/"), len(photographs[uri]), None, 0)


def test_forked_process_opens_its_own_connection(storage: S3Storage) -> None:
    """Readers are forked, and two processes that share a connection would receive each other's responses."""
    for number in range(4):
        storage.replace(f"object-{number}", bytes([number]) * 1000)
    storage.read("object-0")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        contents = pool.map(storage.read, [f"object-{number % 4}" for number in range(64)], chunksize=1)
    assert contents == [bytes([number % 4]) * 1000 for number in range(64)]


def test_scratch_files_replace_objects_and_sizes_are_listed(storage: S3Storage) -> None:
    for content in (b"first", b"second"):
        with storage.scratch() as file:
            file.write(content)
            storage.replace_file("name", file)
        assert storage.read("name") == content
    storage.put("folder/other", b"5 bytes")
    assert storage.list_sizes() == {"name": 6}
