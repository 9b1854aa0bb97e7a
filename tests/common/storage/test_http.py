"""Tests of reading files over http, from a real server in a thread."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from common.storage import http
from common.storage.http import HttpError, HttpStorage, parse_url
from tests.support.http_server import FileServer, serve_folder

CONTENT = bytes(range(256)) * 40
NAME, PATH = "a b.bin", "files/a b.bin"  # a name that has to be quoted


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "backoff", lambda attempt: 0)
    monkeypatch.setattr(http, "BUSY_PAUSE", 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a b.bin").write_bytes(CONTENT)
    (tmp_path / "files/empty").write_bytes(b"")
    with serve_folder(tmp_path) as server:
        yield server


@pytest.fixture
def storage(server: FileServer) -> HttpStorage:
    return HttpStorage(f"{server.url}/files/")


@pytest.mark.parametrize("ranges", [True, False])
def test_files_are_read_whole_in_parts_and_as_files(storage: HttpStorage, server: FileServer, ranges: bool) -> None:
    server.ranges = ranges
    assert storage.read(NAME) == CONTENT
    assert storage.read_range(NAME, 300, 500) == CONTENT[300:800]
    assert storage.read_range(NAME, len(CONTENT) - 7, 500) == CONTENT[-7:]
    assert storage.read_range(NAME, len(CONTENT), 5) == storage.read_range(NAME, 0, 0) == b""
    assert storage.read("empty") == b""
    with storage.open(NAME) as file:
        assert file.seek(-9, 2) == len(CONTENT) - 9
        assert file.read() == CONTENT[-9:]
        file.seek(5)
        assert file.read(11) == CONTENT[5:16]
    assert (storage.exists(NAME), storage.exists("nothing")) == (True, False)
    assert server.requests[0] == ("GET", PATH)


def test_state_has_the_size_and_a_version_that_changes_with_the_content(
    storage: HttpStorage, server: FileServer, tmp_path: Path
) -> None:
    before = storage.stat(NAME)
    assert before == storage.stat(NAME)
    assert before.size == len(CONTENT)
    assert server.paths("GET") == []
    (tmp_path / PATH).write_bytes(CONTENT[::-1])
    assert storage.stat(NAME) != before
    server.head = False
    assert storage.stat(NAME).size == len(CONTENT)


def test_a_file_that_is_replaced_while_it_is_read_is_reported(
    storage: HttpStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_BUFFER_SIZE", 1000)
    with storage.open(NAME) as file:
        file.read(10)
        (tmp_path / PATH).write_bytes(CONTENT[::-1])
        with pytest.raises(HttpError, match="was replaced while it was read"):
            file.read()


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_responses_are_repeated_and_then_reported(
    storage: HttpStorage, server: FileServer, ranges: bool
) -> None:
    server.ranges = ranges
    server.cut[PATH] = 100
    with pytest.raises(HttpError, match=r"the connection ended with 100 bytes missing, in 5 attempts\. Check"):
        storage.read(NAME)
    assert server.paths() == [PATH] * http.MAX_ATTEMPTS
    with pytest.raises(HttpError, match="the connection ended with 100 bytes missing"), storage.open(NAME) as file:
        file.read()


def test_temporary_errors_are_repeated(storage: HttpStorage, server: FileServer) -> None:
    server.statuses[PATH] = [503, 429, 200]
    assert storage.read(NAME) == CONTENT
    server.statuses[PATH] = [503]
    with pytest.raises(HttpError, match=r"the server answers HTTP 503 Service Unavailable, in 5 attempts"):
        storage.read(NAME)


@pytest.mark.parametrize(("retry_after", "pause"), [("", 5), ("7", 7), ("3600", 60), ("tomorrow", 5)])
def test_busy_server_gets_the_pause_that_it_asks_for(
    storage: HttpStorage, server: FileServer, retry_after: str, pause: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BUSY_PAUSE", 5)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.statuses[PATH], server.retry_after = [429, 500, 200], retry_after
    assert storage.read(NAME) == CONTENT
    assert pauses == [pause, 0]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, FileNotFoundError, r"there is no such file \(HTTP 404\)"),
        (403, HttpError, r"the server refuses access \(HTTP 403\)\. The file may not be public, or absent"),
        (401, HttpError, r"the server refuses access \(HTTP 401\)"),
        (418, HttpError, "the server answers HTTP 418 I'm a Teapot"),
    ],
)
def test_other_errors_are_reported_at_once(
    storage: HttpStorage, server: FileServer, status: int, error: type[Exception], message: str
) -> None:
    server.statuses[PATH] = [status]
    with pytest.raises(error, match=message):
        storage.read(NAME)
    assert server.paths() == [PATH]


def test_redirects_are_followed_with_the_same_method_and_range(storage: HttpStorage, server: FileServer) -> None:
    server.redirects["files/moved"] = f"{server.url}/files/a%20b.bin"
    assert storage.read("moved") == CONTENT
    assert storage.read_range("moved", 5, 6) == CONTENT[5:11]
    server.requests.clear()
    assert storage.stat("moved").size == len(CONTENT)
    assert server.requests == [("HEAD", "files/moved"), ("HEAD", PATH)]
    server.redirects["files/circle"] = f"{server.url}/files/circle"
    with pytest.raises(HttpError, match=r"circle: the server answers HTTP 302 .*infinite loop"):
        storage.read("circle")


def test_a_host_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(http, "TIMEOUT", 0.05)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HttpError, match=rf"{url}/a: no answer for 0\.05 s, in 5 attempts\. Check the URL and the"):
            HttpStorage(url).read("a")
    with pytest.raises(HttpError, match=r"no complete answer \(.*Connection refused\), in 5 attempts"):
        HttpStorage(url).read("a")
    with pytest.raises(HttpError, match=r"no complete answer \(.*\), in 5 attempts"):
        HttpStorage("http://nobody.invalid/data").read("a")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    path, subject = tmp_path / "server.pem", ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path, "-out", path]
    subprocess.run(["openssl", "req", "-x509", *key, *subject], check=True, capture_output=True)
    return path


def test_certificates_are_verified(tmp_path: Path, certificate: Path) -> None:
    with serve_folder(tmp_path / "files", certificate) as server:
        with pytest.raises(
            HttpError, match=r"certificate cannot be verified: self-signed certificate\. Check the host"
        ):
            HttpStorage(server.url).read("empty")
        plain = HttpStorage(server.url.replace("https", "http"))
        with pytest.raises(HttpError, match="no complete answer"):
            plain.read("empty")


def test_redirects_from_https_to_http_are_refused() -> None:
    request = http.urllib.request.Request("https://example.org/data/manifest.json")
    with pytest.raises(HttpError, match=r"is redirected to http://example\.org/x, which is not https"):
        http._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/x")


def test_urls_are_checked_and_quoted() -> None:
    assert parse_url("https://example.org/some data/é%20x//") == "https://example.org/some%20data/%C3%A9%20x"
    assert parse_url("http://example.org:81") == "http://example.org:81"
    for location in ("https://", "ftp://example.org/a", "https://example.org/a?key=1", "https://example.org/a#b"):
        with pytest.raises(UserError, match=r"expected https://HOST/PATH, the URL of a folder"):
            parse_url(location)
    with pytest.raises(UserError, match="without a user name") as error:
        parse_url("https://user:secret@example.org/data")
    assert "secret" not in str(error.value)
