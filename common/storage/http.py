"""Reading the files of a public copy over https (or http), without credentials and without a listing.

Proxies come from the environment (https_proxy), and certificate authorities from the system (SSL_CERT_FILE).
"""

import contextlib
import http.client
import io
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, BinaryIO, TypeVar

from common.errors import UserError, describe_error
from common.storage.attempts import backoff
from common.storage.objects import ObjectState, RangeReader

SCHEMES = ("https://", "http://")
TIMEOUT = 30.0  # seconds without an answer, or without further bytes of one
MAX_ATTEMPTS = 5  # of a request, including the body of its response
BUSY = (429, 503)
BUSY_PAUSE, MAX_BUSY_PAUSE = 5, 60  # seconds until the next request of a server that is busy: default, and limit
READ_BUFFER_SIZE = 4 << 20  # bytes that a file opened for reading requests at once
NOT_FOUND = (404, 410)
REFUSED = (401, 403)
HEAD_NOT_SUPPORTED = (405, 501)
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
T = TypeVar("T")


class HttpError(UserError):
    """A request that failed permanently. The message names the URL and what to check; `status` is that of HTTP."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class HttpStorage:
    """The files below a URL, read-only. `common.storage.ReadableStorage` documents the methods.

    Interrupted responses and temporary errors of the server are tried again. Other failures raise HttpError.
    """

    def __init__(self, location: str) -> None:
        self.location = self._root = parse_url(location)

    def exists(self, name: str) -> bool:
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def stat(self, name: str) -> ObjectState:
        return _state(self._headers(name), self._url(name))

    def open(self, name: str) -> BinaryIO:
        """Open a file. If the server does not offer ranges, the file is first copied to a local temporary file."""
        headers = self._headers(name)
        if headers.get("Accept-Ranges") != "bytes":
            return self._request(name, _to_temporary_file)
        state = _state(headers, self._url(name))
        reader = RangeReader(state.size, lambda start, size: self._read_range(name, start, size, state.version))
        return io.BufferedReader(reader, READ_BUFFER_SIZE)

    def read(self, name: str) -> bytes:
        return self._request(name, lambda response: response.read())

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return self._read_range(name, start, size)

    def _read_range(self, name: str, start: int, size: int, version: str | None = None) -> bytes:
        """Read a range of a file. Raises HttpError if the file has another version than the expected one."""
        if size <= 0:
            return b""

        def receive(response: http.client.HTTPResponse) -> bytes:
            if version and _version(response.headers) != version:
                raise HttpError(f"{self._url(name)}: was replaced while it was read; run the same command again")
            content = response.read()
            return content if response.status == http.HTTPStatus.PARTIAL_CONTENT else content[start : start + size]

        try:
            return self._request(name, receive, Range=f"bytes={start}-{start + size - 1}")
        except HttpError as error:
            if error.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            raise

    def _headers(self, name: str) -> Message:
        """Return the headers of a response, without its body."""
        try:
            return self._request(name, lambda response: response.headers, method="HEAD")
        except HttpError as error:
            if error.status not in HEAD_NOT_SUPPORTED:
                raise
        return self._request(name, lambda response: response.headers)

    def _url(self, name: str) -> str:
        return f"{self._root}/{urllib.parse.quote(name)}"

    def _request(
        self, name: str, receive: Callable[[http.client.HTTPResponse], T], method: str = "GET", **headers: str
    ) -> T:
        """Send a request and return what `receive` makes of the response. Raises FileNotFoundError, HttpError."""
        url = self._url(name)
        headers["User-Agent"] = "imagenet-attn"  # some servers refuse Python's own
        reason = ""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            pause = backoff(attempt)
            request = urllib.request.Request(url, headers=headers, method=method)  # a used one remembers its redirects
            try:
                with _opener.open(request, timeout=TIMEOUT) as response:
                    return receive(response)
            except urllib.error.HTTPError as error:
                if error.code not in TRANSIENT:
                    raise _explain_status(error, url) from None
                reason = f"the server answers HTTP {error.code} {error.reason}"
                if error.code in BUSY:
                    pause = max(pause, _requested_pause(error.headers))
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                reason = _explain_connection(error, url)
            if attempt < MAX_ATTEMPTS:
                time.sleep(pause)
        raise HttpError(
            f"{url}: {reason}, in {MAX_ATTEMPTS} attempts. Check the URL and the network, and run the same command "
            "again to resume"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, with the same method, but not from https to another protocol."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https://") and not newurl.startswith("https://"):
            raise HttpError(f"{req.full_url}: is redirected to {newurl}, which is not https; ask the publisher")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.method = req.get_method()
        return request


_opener = urllib.request.build_opener(_Redirects)


def is_url(location: str) -> bool:
    """Return whether a location is a URL that `HttpStorage` reads."""
    return location.startswith(SCHEMES)


def parse_url(location: str) -> str:
    """Return a URL without slashes at its end and with its path quoted. Raises UserError for anything but a folder."""
    parts = urllib.parse.urlsplit(location)
    if "@" in parts.netloc:  # the message must not repeat what may be a secret
        raise UserError(f"expected {SCHEMES[0]}HOST/PATH without a user name, found an @ in the host's name")
    if not is_url(location) or not parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{location}: expected {SCHEMES[0]}HOST/PATH, the URL of a folder, without ? and #")
    return parts._replace(path=urllib.parse.quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")).geturl()


def _state(headers: Message, url: str) -> ObjectState:
    if "Content-Length" not in headers:
        raise HttpError(f"{url}: the server does not state the size of the file (no Content-Length)")
    return ObjectState(int(headers["Content-Length"]), _version(headers))


def _version(headers: Message) -> str | None:
    return headers.get("ETag") or headers.get("Last-Modified")


def _requested_pause(headers: Message) -> int:
    """Return the seconds that a busy server asks to wait for, within limits; the default if it names none."""
    value = headers.get("Retry-After", "")
    return min(int(value), MAX_BUSY_PAUSE) if value.isdecimal() else BUSY_PAUSE


def _to_temporary_file(response: http.client.HTTPResponse) -> BinaryIO:
    with contextlib.ExitStack() as on_failure:
        file = on_failure.enter_context(tempfile.TemporaryFile())
        shutil.copyfileobj(response, file)
        missing = int(response.headers.get("Content-Length", 0)) - file.tell()
        if missing > 0:  # only a read of the whole response raises this itself
            raise http.client.IncompleteRead(b"", missing)
        file.seek(0)
        on_failure.pop_all()
    return file


def _explain_status(error: urllib.error.HTTPError, url: str) -> Exception:
    """Return the exception for a response whose status is an error that another attempt would not change."""
    if error.code in NOT_FOUND:
        return FileNotFoundError(f"{url}: there is no such file (HTTP {error.code})")
    if error.code in REFUSED:
        return HttpError(
            f"{url}: the server refuses access (HTTP {error.code}). The file may not be public, or absent on a server "
            "that does not list its files; ask the publisher",
            error.code,
        )
    reason = " ".join(error.reason.split())
    return HttpError(f"{url}: the server answers HTTP {error.code} {reason}. Check the URL", error.code)


def _explain_connection(error: OSError | http.client.HTTPException, url: str) -> str:
    """Return why there was no complete response. Raises HttpError if another attempt would not change that."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise HttpError(
            f"{url}: the server's certificate cannot be verified: {reason.verify_message}. Check the host's name and "
            "this machine's clock; SSL_CERT_FILE names further certificate authorities"
        ) from None
    if isinstance(reason, http.client.InvalidURL):
        raise HttpError(f"{url}: is not a valid URL: {describe_error(reason)}") from None
    if isinstance(reason, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    if isinstance(reason, http.client.IncompleteRead):
        return f"the connection ended with {reason.expected:,} bytes missing"
    return f"no complete answer ({describe_error(reason) if isinstance(reason, Exception) else reason})"
