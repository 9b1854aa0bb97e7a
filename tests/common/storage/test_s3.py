"""S3 storage and sources against a real server, with the faults of real networks."""

import hashlib
import io
import multiprocessing
import os
import tarfile
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
    """The process's client belongs to the environment that it was made in; and tests need not wait."""
    monkeypatch.setattr(s3_client, "backoff", lambda attempt: 0.01)
    s3_client.get_client.cache_clear()
    yield
    s3_client.get_client.cache_clear()


@pytest.fixture
def storage(bucket: str, s3_environment: dict[str, str]) -> S3Storage:
    return open_storage(f"s3://{bucket}/data/set")


@pytest.fixture
def proxy(s3: S3Server, storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The storage's server, from now on behind a proxy."""
    with FaultProxy(s3) as running:
        use(running.environment(), monkeypatch)
        yield running


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3_client.get_client.cache_clear()


def put_file(storage: S3Storage, name: str, content: bytes) -> bool:
    with storage.scratch() as file:
        file.write(content)
        return storage.put_file(name, file)


def test_what_is_put_reads_back_and_is_listed(storage: S3Storage) -> None:
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


def test_a_name_is_given_only_once(storage: S3Storage) -> None:
    assert storage.put("name", b"first")
    assert not storage.put("name", b"second")
    assert not put_file(storage, "name", b"third")
    assert storage.read("name") == b"first"


def test_of_many_threads_that_put_one_name_exactly_one_wins(storage: S3Storage) -> None:
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


def test_swap_replaces_only_what_is_expected(storage: S3Storage) -> None:
    assert storage.swap("manifest.json", None, b"1")
    assert not storage.swap("manifest.json", None, b"2")
    assert not storage.swap("manifest.json", b"other", b"2")
    assert storage.swap("manifest.json", b"1", b"2")
    assert storage.swap("manifest.json", b"1", b"2"), "it is ours already"
    assert storage.read("manifest.json") == b"2"


def test_an_absent_object_is_not_found(storage: S3Storage) -> None:
    with pytest.raises(FileNotFoundError, match="data/set/absent"):
        storage.read("absent")
    with pytest.raises(FileNotFoundError):
        storage.open("absent")


def test_an_object_is_read_anywhere_in_ranges(storage: S3Storage) -> None:
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


def test_an_object_that_is_replaced_while_it_is_read_is_an_error_not_a_mixture(storage: S3Storage) -> None:
    storage.replace("big", b"1" * (9 << 20))
    with storage.open("big") as file:
        file.read(10)
        storage.replace("big", b"2" * (9 << 20))
        with pytest.raises(s3_client.S3Error, match="was replaced while it was read"):
            file.read()


def test_a_writable_place_is_left_empty(storage: S3Storage) -> None:
    storage.check_writable()
    assert storage.list(".partial") == []


def test_faults_lose_nothing_and_leave_no_half_object(storage: S3Storage, proxy: FaultProxy) -> None:
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


def test_a_put_whose_answer_is_lost_is_found_to_be_there(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(Reset(after=True), when=lambda request: request.method == "PUT", times=1)
    assert not storage.put("record", b"ours")  # somebody has that name: ourselves
    assert storage.read("record") == b"ours"
    proxy.add(Reset(after=True), when=lambda request: request.method == "PUT", times=1)
    assert storage.swap("record", b"ours", b"new")


def test_a_body_that_breaks_off_again_and_again_is_an_error_that_names_it(
    storage: S3Storage, proxy: FaultProxy
) -> None:
    storage.put("record", b"0123456789")
    proxy.add(Truncate(4), when=lambda request: request.path.endswith("record"), times=None)
    with pytest.raises(s3_client.S3Error, match=r"data/set/record: GetObject at http.* failed"):
        storage.read("record")


def test_a_store_without_conditional_puts_is_refused(storage: S3Storage, proxy: FaultProxy) -> None:
    storage.check_writable()
    proxy.add(DropHeader("If-None-Match"), times=None)
    with pytest.raises(UserError, match="ignores conditional puts"):
        storage.check_writable()
    assert storage.list(".partial") == []


def test_an_endpoint_that_hangs_is_an_error_within_a_minute(bucket: str, proxy: FaultProxy) -> None:
    proxy.add(Hang(), times=None)
    begin = time.monotonic()
    with pytest.raises(s3_client.S3Error, match=r"failed: Read timeout .* Check AWS_ENDPOINT_URL"):
        open_storage(f"s3://{bucket}/data")
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Status(400, "ExpiredToken"), r"ExpiredToken \(400\).* have expired: renew them"),
        (Status(403, "AccessDenied"), r"AccessDenied \(403\).* do not grant s3:ListBucket"),
        (Status(403, "InvalidAccessKeyId"), "are not this endpoint's"),
        (Status(403, "RequestTimeTooSkewed"), "clock"),
        (Status(301, "PermanentRedirect"), "another region: set AWS_DEFAULT_REGION"),
        (Status(404, "NoSuchBucket"), "Check the bucket's name"),
    ],
)
def test_an_error_of_the_store_says_what_to_check(fault: Status, told: str, bucket: str, proxy: FaultProxy) -> None:
    proxy.add(fault, when=lambda request: request.method == "GET", times=None)
    with pytest.raises(
        s3_client.S3Error, match=f"s3://{bucket}/data: ListObjectsV2 at {proxy.endpoint} failed: .*{told}"
    ):
        open_storage(f"s3://{bucket}/data")


def test_wrong_buckets_addresses_and_endpoints_are_told(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(s3_client.S3Error, match="NoSuchBucket"):
        open_storage("s3://no-such-bucket-here/data")
    with pytest.raises(UserError, match="expected s3://BUCKET/PREFIX"):
        open_storage("s3:///data")
    with pytest.raises(UserError, match="found an @") as refused:
        open_storage(f"s3://key:{SECRET}@bucket/data")
    assert SECRET not in str(refused.value)
    use({"AWS_ENDPOINT_URL": f"http://user:{SECRET}@127.0.0.1:9"}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="AWS_ENDPOINT_URL"):
        open_storage("s3://bucket/data")


def test_credentials_that_are_absent_wrong_or_not_enough_are_told_apart(
    guarded_s3: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = guarded_s3.new_bucket()
    use(guarded_s3.readonly_environment(), monkeypatch)
    storage = open_storage(f"s3://{bucket}/data")
    with pytest.raises(s3_client.S3Error, match="do not grant s3:PutObject"):
        storage.check_writable()
    use({"AWS_SECRET_ACCESS_KEY": SECRET}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="are not this endpoint's") as wrong:
        open_storage(f"s3://{bucket}/data")
    assert SECRET not in str(wrong.value)
    use({"AWS_ACCESS_KEY_ID": "nobody"}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="InvalidAccessKeyId"):
        open_storage(f"s3://{bucket}/data")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    use({"HOME": str(tmp_path)}, monkeypatch)
    with pytest.raises(s3_client.S3Error, match="Set AWS_ACCESS_KEY_ID"):
        open_storage(f"s3://{bucket}/data")


def test_encryption_is_passed_through_and_checksums_are_sent(
    storage: S3Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.add(Status(400, "NotHere"), when=lambda request: request.method == "PUT", times=None)
    use({SSE: "aws:kms", SSE_KMS_KEY: "my-key"}, monkeypatch)
    with pytest.raises(s3_client.S3Error):
        put_file(storage, "name", b"content")
    (sent,) = [request.headers for request in proxy.requests if request.method == "PUT"]
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "my-key"
    assert (sent["If-None-Match"], sent["Content-Length"]) == ("*", "7")
    assert sent["Content-MD5"]


@pytest.fixture
def photographs(s3: S3Server, bucket: str, s3_environment: dict[str, str]) -> dict[str, bytes]:
    """Objects in two class folders and in tars: one of a class, one of tars. Their bytes by uri."""
    objects = {f"{name}/{index} é <i>.jpg": os.urandom(2000 + index) for name in ("a", "b") for index in range(3)}
    inner, outer = io.BytesIO(), io.BytesIO()
    members = {f"x{index}.JPEG": os.urandom(700 + index) for index in range(4)}
    write_tar(inner, members)
    write_tar(outer, {"c.tar": inner.getvalue(), "notes.txt": b"no image"})
    client = s3_client.get_client()
    for key, content in {**objects, "d.tar": inner.getvalue(), "all.tar": outer.getvalue(), "readme.md": b"x"}.items():
        client.put_object(Bucket=bucket, Key=f"in/{key}", Body=content)
    client.put_object(Bucket=bucket, Key="in/folder/", Body=b"")
    client.put_object(Bucket=bucket, Key="input-of-others/z.jpg", Body=b"z")
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


def test_objects_and_the_insides_of_tars_are_listed_and_read(photographs: dict[str, bytes], bucket: str) -> None:
    source = open_source(f"s3://{bucket}/in/")
    listing = source.list()
    found = refs_of(listing.table)
    assert [image.uri for image in found] == sorted(photographs, key=str.encode)
    assert {image.uri: source.read(image) for image in found} == photographs
    assert listing.skipped == {".md": 1, ".txt": 1}


def test_a_single_tar_is_an_input_too(photographs: dict[str, bytes], bucket: str) -> None:
    source = open_source(f"s3://{bucket}/in/all.tar")
    found = refs_of(source.list().table)
    assert [image.uri for image in found] == [f"c.tar/x{index}.JPEG" for index in range(4)]
    assert [source.read(image) for image in found] == [photographs[f"all.tar/{image.uri}"] for image in found]
    with pytest.raises(UserError, match="unpack or decompress"):
        open_source(f"s3://{bucket}/in/all.tar.gz")


def test_listing_and_reading_survive_faults(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    quiet = open_source(f"s3://{bucket}/in").list()
    proxy.random(seed=2, rate=0.4, faults=[Status(503, "SlowDown"), Reset(), Truncate(300)])
    source = open_source(f"s3://{bucket}/in")
    assert source.list().table.equals(quiet.table)
    proxy.clear()
    dishonest = Truncate(300, honest=False)  # nothing in HTTP shows it, but the listing tells the size
    proxy.add(dishonest, when=lambda request: request.method == "GET" and "in/" in request.path, times=4)
    assert {image.uri: source.read(image) for image in refs_of(quiet.table)} == photographs
    assert any(dishonest in request.faults for request in proxy.requests)


def test_what_has_become_of_a_listed_object_is_told(photographs: dict[str, bytes], bucket: str, s3: S3Server) -> None:
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


def test_a_denied_object_is_an_error_of_the_run_not_a_bad_image(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    source = open_source(f"s3://{bucket}/in/a")
    proxy.add(Status(403, "AccessDenied"), when=lambda request: request.method == "GET", times=None)
    with pytest.raises(s3_client.S3Error, match="do not grant s3:GetObject"):
        source.read(refs_of_first(photographs))


def test_an_archived_object_is_left_out(
    photographs: dict[str, bytes], bucket: str, storage: S3Storage, proxy: FaultProxy
) -> None:
    source = open_source(f"s3://{bucket}/in/a")
    proxy.add(Status(403, "InvalidObjectState"), when=lambda request: request.method == "GET", times=None)
    with pytest.raises(ImageFailure, match=r"unreadable: .*restore it first"):
        source.read(refs_of_first(photographs))


def test_a_part_of_an_object_is_read_by_one_request(storage: S3Storage, proxy: FaultProxy) -> None:
    storage.replace("object", bytes(range(100)))
    before = len(proxy.requests)
    assert storage.read_range("object", 10, 5) == bytes(range(10, 15))
    assert storage.read_range("object", 98, 5) == bytes([98, 99])
    assert len(proxy.requests) == before + 2


def refs_of_first(photographs: dict[str, bytes]) -> ImageRef:
    uri = next(iter(photographs))
    return ImageRef(uri.removeprefix("a/"), len(photographs[uri]), None, 0)


def test_a_forked_process_makes_a_connection_of_its_own(storage: S3Storage) -> None:
    """Readers are forked: two processes that read one connection get each other's answers."""
    for number in range(4):
        storage.replace(f"object-{number}", bytes([number]) * 1000)
    storage.read("object-0")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(storage.read, [f"object-{number % 4}" for number in range(64)], chunksize=1)
    assert found == [bytes([number % 4]) * 1000 for number in range(64)]
