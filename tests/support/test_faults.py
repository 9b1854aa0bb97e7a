"""Tests of the servers that other tests rely on: the S3 server behaves like S3, and the proxy injects faults."""

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)

from tests.support.faults import Delay, DropHeader, Fault, FaultProxy, Hang, Request, Reset, Status, Truncate
from tests.support.s3_server import S3Server

ONCE = Config(retries={"total_max_attempts": 1}, response_checksum_validation="when_required")
LARGE = os.urandom(20 << 20)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Any:
    return proxy.client(config=ONCE)


def put(client: Any, bucket: str, key: str = "x", body: bytes = b"content", **more: str) -> str:
    return client.put_object(Bucket=bucket, Key=key, Body=body, **more)["ETag"]


def get(client: Any, bucket: str, key: str = "x", **more: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


def error_of(call: Any, *arguments: Any, **more: Any) -> tuple[int, str]:
    """Return the HTTP status and S3's error code of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **more)
    return caught.value.response["ResponseMetadata"]["HTTPStatusCode"], caught.value.response["Error"]["Code"]


def put_with_three_attempts(client: Any, bucket: str, key: str) -> bool:
    for _ in range(3):
        with contextlib.suppress(ClientError, ConnectionClosedError):
            return bool(put(client, bucket, key))
    return False


def is_put(request: Request) -> bool:
    return request.method == "PUT"


@pytest.mark.parametrize("guarded", [False, True])
def test_without_rules_the_proxy_changes_nothing(guarded: bool, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("guarded_s3" if guarded else "s3")
    bucket = server.new_bucket()
    with FaultProxy(server) as proxy:
        client = proxy.client(config=ONCE)
        etag = put(client, bucket, "folder/ein Bär & mehr", LARGE)
        assert get(client, bucket, "folder/ein Bär & mehr") == LARGE
        assert get(client, bucket, "folder/ein Bär & mehr", Range="bytes=5-9", IfMatch=etag) == LARGE[5:10]
        put(client, bucket, "empty", b"")
        assert get(client, bucket, "empty") == b""
        assert client.head_object(Bucket=bucket, Key="folder/ein Bär & mehr")["ContentLength"] == len(LARGE)
        keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert keys == ["empty", "folder/ein Bär & mehr"]
        client.delete_object(Bucket=bucket, Key="empty")
        assert error_of(get, client, bucket, "empty") == (404, "NoSuchKey")
        methods = [seen.method for seen in proxy.requests]
        assert methods == ["PUT", "GET", "GET", "PUT", "GET", "HEAD", "GET", "DELETE", "GET"]
        assert proxy.requests[0].path == f"/{bucket}/folder/ein Bär & mehr"
        assert proxy.requests[0].headers["expect"] == "100-continue"
        assert proxy.requests[6].query.startswith("list-type=2")


def test_conditions_hold_through_the_proxy(client: Any, bucket: str) -> None:
    etag = put(client, bucket, IfNoneMatch="*")
    assert error_of(put, client, bucket, body=b"other", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert get(client, bucket) == b"content"
    new = put(client, bucket, body=b"newer", IfMatch=etag)
    assert error_of(put, client, bucket, body=b"other", IfMatch=etag) == (412, "PreconditionFailed")
    assert error_of(get, client, bucket, IfMatch=etag, Range="bytes=1-2") == (412, "PreconditionFailed")
    assert get(client, bucket, IfMatch=new, Range="bytes=1-2") == b"ew"


def test_exactly_one_of_concurrent_conditional_puts_succeeds(s3: S3Server, bucket: str) -> None:
    client = s3.client(config=ONCE)

    def succeeds(number: int) -> bool:
        try:
            return bool(put(client, bucket, body=b"%d" % number * 1000, IfNoneMatch="*"))
        except ClientError:
            return False

    with ThreadPoolExecutor(2) as pool:
        successes = list(pool.map(succeeds, range(2)))
    assert successes.count(True) == 1
    assert get(client, bucket) == b"%d" % successes.index(True) * 1000


def test_multipart_uploads_pass_through_the_proxy(client: Any, proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    client.upload_file(str(tmp_path / "large"), bucket, "large")
    assert sum("partNumber=" in request.query for request in proxy.requests) == 3
    client.download_file(bucket, "large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == LARGE


def test_guarded_server_checks_keys_signatures_and_permissions(guarded_s3: S3Server) -> None:
    bucket = guarded_s3.new_bucket()
    put(guarded_s3.client(), bucket)
    names = guarded_s3.readonly_environment()
    keys = {
        "aws_access_key_id": names["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": names["AWS_SECRET_ACCESS_KEY"],
    }
    reader = guarded_s3.client(config=ONCE, **keys)
    assert get(reader, bucket) == b"content"
    assert error_of(put, reader, bucket) == (403, "AccessDenied")
    stranger = guarded_s3.client(config=ONCE, aws_access_key_id="absent")
    assert error_of(get, stranger, bucket) == (403, "InvalidAccessKeyId")
    forger = guarded_s3.client(config=ONCE, aws_secret_access_key="wrong")
    assert error_of(get, forger, bucket) == (403, "SignatureDoesNotMatch")
    with FaultProxy(guarded_s3) as proxy:
        forger = proxy.client(config=ONCE, aws_secret_access_key="wrong")
        assert error_of(put, forger, bucket, body=LARGE) == (403, "SignatureDoesNotMatch")


def test_environment_variables_configure_a_client(s3_environment: dict[str, str], bucket: str) -> None:
    client = boto3.session.Session().client("s3")
    put(client, bucket)
    assert client.meta.endpoint_url == s3_environment["AWS_ENDPOINT_URL"]
    assert get(client, bucket) == b"content"


@pytest.mark.parametrize(
    ("status", "name"), [(503, "SlowDown"), (500, "InternalError"), (400, "ExpiredToken"), (403, "AccessDenied")]
)
def test_injected_status_looks_like_an_error_of_the_store(
    status: int, name: str, client: Any, proxy: FaultProxy, bucket: str
) -> None:
    proxy.add(Status(status, name), times=3)
    assert error_of(put, client, bucket, body=LARGE[: 2 << 20]) == (status, name)
    assert error_of(get, client, bucket) == (status, name)
    assert error_of(client.head_object, Bucket=bucket, Key="x") == (status, str(status))
    assert error_of(get, client, bucket) == (404, "NoSuchKey")


def test_rule_applies_to_matching_requests_a_limited_number_of_times(
    client: Any, proxy: FaultProxy, bucket: str
) -> None:
    proxy.add(Status(503, "SlowDown"), when=lambda request: request.path.endswith(".tar"), times=2)
    put(client, bucket, "a.json")
    assert [error_of(put, client, bucket, "a.tar")[0] for _ in range(2)] == [503, 503]
    put(client, bucket, "a.tar")
    proxy.add(Status(500, "InternalError"), when=is_put, times=None)
    assert [error_of(put, client, bucket)[0] for _ in range(4)] == [500] * 4
    assert get(client, bucket, "a.tar") == b"content"
    proxy.clear()
    put(client, bucket)
    assert [(request.path, request.faults) for request in proxy.requests] == [(f"/{bucket}/x", [])]


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_reset_before_forwarding_leaves_the_store_unchanged(
    body: bytes, client: Any, proxy: FaultProxy, bucket: str
) -> None:
    proxy.add(Reset(), when=is_put)
    with pytest.raises(ConnectionClosedError):
        put(client, bucket, body=body)
    assert error_of(get, client, bucket) == (404, "NoSuchKey")


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_reset_after_forwarding_hides_a_successful_request(
    body: bytes, client: Any, proxy: FaultProxy, bucket: str
) -> None:
    proxy.add(Reset(after=True), when=is_put)
    with pytest.raises(ConnectionClosedError):
        put(client, bucket, body=body, IfNoneMatch="*")
    assert get(client, bucket) == body
    assert error_of(put, client, bucket, body=body, IfNoneMatch="*") == (412, "PreconditionFailed")


def test_truncated_body_is_shorter_than_its_content_length(client: Any, proxy: FaultProxy, bucket: str) -> None:
    put(client, bucket, body=LARGE)
    proxy.add(Truncate(1_000_000))
    answer = client.get_object(Bucket=bucket, Key="x")
    assert answer["ContentLength"] == len(LARGE)
    with pytest.raises((IncompleteReadError, HTTPClientError)):
        answer["Body"].read()
    assert get(client, bucket) == LARGE


def test_truncated_body_can_have_a_matching_content_length(client: Any, proxy: FaultProxy, bucket: str) -> None:
    put(client, bucket, body=LARGE)
    proxy.add(Truncate(1_000_000, honest=False))
    answer = client.get_object(Bucket=bucket, Key="x")
    assert answer["ContentLength"] == 1_000_000
    assert answer["Body"].read() == LARGE[:1_000_000]


def test_delayed_request_is_answered_later(client: Any, proxy: FaultProxy, bucket: str) -> None:
    put(client, bucket)
    proxy.add(Delay(0.3))
    start = time.monotonic()
    assert get(client, bucket) == b"content"
    assert 0.3 <= time.monotonic() - start < 2


def test_hanging_request_runs_into_the_clients_timeout(proxy: FaultProxy, bucket: str) -> None:
    client = proxy.client(config=ONCE.merge(Config(read_timeout=0.3)))
    proxy.add(Hang(), when=is_put)
    with pytest.raises(ReadTimeoutError):
        put(client, bucket)
    assert error_of(get, client, bucket) == (404, "NoSuchKey")


def test_hanging_request_ends_with_the_proxy(s3: S3Server, bucket: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with FaultProxy(s3) as proxy:
            proxy.add(Hang())
            hanging = pool.submit(put, proxy.client(config=ONCE), bucket)
            while not (proxy.requests and proxy.requests[0].faults):
                time.sleep(0.01)
            assert not hanging.done()
        with pytest.raises(ConnectionClosedError):
            hanging.result(timeout=5)


def test_conditional_put_without_its_header_overwrites(client: Any, proxy: FaultProxy, bucket: str) -> None:
    proxy.add(DropHeader("If-None-Match"), times=None)
    put(client, bucket, IfNoneMatch="*")
    put(client, bucket, body=b"other", IfNoneMatch="*")
    assert get(client, bucket) == b"other"
    assert proxy.requests[0].headers["If-None-Match"] == "*"


def test_faults_are_combined_until_one_answers(client: Any, proxy: FaultProxy, bucket: str) -> None:
    put(client, bucket)
    proxy.clear()
    faults: list[Fault] = [DropHeader("If-None-Match"), Reset(after=True), Status(503, "SlowDown")]
    for fault in faults:
        proxy.add(fault)
    with pytest.raises(ConnectionClosedError):
        put(client, bucket, body=b"other", IfNoneMatch="*")
    assert error_of(put, client, bucket) == (503, "SlowDown")
    assert [request.faults for request in proxy.requests] == [faults[:2], faults[2:]]
    assert get(client, bucket) == b"other"


def test_random_faults_are_reproducible_and_let_retries_succeed(s3: S3Server, bucket: str) -> None:
    faults: list[Fault] = [Status(503, "SlowDown"), Reset(), Reset(after=True)]

    def injected_faults(seed: int) -> list[tuple[str, list[Any]]]:
        with FaultProxy(s3) as proxy, ThreadPoolExecutor(4) as pool:
            proxy.random(seed, 0.5, faults)
            client = proxy.client(config=ONCE)
            assert all(pool.map(lambda number: put_with_three_attempts(client, bucket, str(number)), range(12)))
            return [(seen.key, seen.faults) for seen in sorted(proxy.requests, key=lambda seen: seen.key)]

    first = injected_faults(1)
    assert 12 < len(first) <= 36
    assert {fault for _, request_faults in first for fault in request_faults} == set(faults)
    assert injected_faults(1) == first
    assert injected_faults(2) != first
