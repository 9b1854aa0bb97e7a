"""A proxy in front of an S3 server that injects faults of real networks and stores into chosen requests.

Requests and responses pass through it unchanged, so signatures stay valid, and large bodies are never held in memory.
"""

import contextlib
import http.client
import io
import random
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Self

from tests.support.s3_server import S3Server

MAX_PIECE_BYTES = 1 << 16  # bytes of a body that are read at once
LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Request:
    """A request as the client sent it, and the faults that were injected into it."""

    method: str
    path: str  # /bucket/key, decoded, without the query
    query: str
    headers: Message  # by case-insensitive name; None if absent
    faults: list["Fault"] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The key of the object; empty if the request is for a bucket."""
        return (self.path.split("/", 2) + [""])[2]


Fault = Callable[["Exchange"], bool]  # returns True if it has answered the request
Rule = Callable[[Request], Fault | None]


@dataclass(frozen=True)
class Status:
    """Answer with an error in S3's format. The request's body is read, and nothing is forwarded."""

    status: int
    code: str
    message: str = "injected by the tests"

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.read_body()
        resource = exchange.request.path.replace("&", "&amp;").replace("<", "&lt;")
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>{self.message}</Message><Resource>{resource}</Resource>"
            "<RequestId>INJECTED</RequestId></Error>"
        )
        exchange.answer(self.status, body.encode())
        return True


@dataclass(frozen=True)
class Reset:
    """Reset the connection: before anything is forwarded, or `after` the store has carried out the request."""

    after: bool = False

    def __call__(self, exchange: "Exchange") -> bool:
        if self.after:
            exchange.forward()
        exchange.reset()
        return True


@dataclass(frozen=True)
class Truncate:
    """Send only the first bytes of the response's body, then close the connection.

    If not `honest`, the connection stays open and Content-Length states the short length. HTTP then does not show the
    loss, but S3's checksums and Content-Range still do.
    """

    bytes: int
    honest: bool = True

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.relay(exchange.forward(), self.bytes, self.honest)
        return True


@dataclass(frozen=True)
class Delay:
    """Delay the request before it is forwarded."""

    seconds: float

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.stopping.wait(self.seconds)
        return False


@dataclass(frozen=True)
class Hang:
    """Read the request, and neither forward nor answer it as long as the proxy runs."""

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.read_body()
        exchange.stopping.wait()
        exchange.open = False
        return True


@dataclass(frozen=True)
class DropHeader:
    """Remove a header of the request. If it was signed, only an anonymous store accepts the request without it."""

    name: str

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.head.drop(self.name)
        return False


class FaultProxy:
    """A proxy that runs in a `with` block.

    All rules that match a request take effect, in the order in which they were added, until a fault answers it.
    """

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.requests: list[Request] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        address = urllib.parse.urlsplit(server.endpoint)
        self._store = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def add(self, fault: Fault, when: Callable[[Request], bool] = lambda request: True, times: int | None = 1) -> None:
        """Inject a fault into the next `times` requests that match `when`, or into all of them if `times` is None."""
        remaining = times

        def rule(request: Request) -> Fault | None:
            nonlocal remaining
            if remaining == 0 or not when(request):
                return None
            remaining = remaining and remaining - 1
            return fault

        with self._lock:
            self._rules.append(rule)

    def random(self, seed: int, rate: float, faults: Sequence[Fault], in_a_row: int = 2) -> None:
        """Inject one of the faults into each request with probability `rate`, at most `in_a_row` times in a row.

        Requests with the same method, key, query and range are attempts of one request. The fault of its n-th attempt
        depends only on the seed, not on the bucket's name or on what else the client does at the same time.
        """
        attempts: Counter[tuple[str, ...]] = Counter()
        faults_in_a_row: Counter[tuple[str, ...]] = Counter()

        def rule(request: Request) -> Fault | None:
            key = (request.method, request.key, request.query, request.headers["Range"] or "")
            attempts[key] += 1
            generator = random.Random(f"{seed} {key} {attempts[key]}")
            if faults_in_a_row[key] == in_a_row or generator.random() >= rate:
                faults_in_a_row[key] = 0
                return None
            faults_in_a_row[key] += 1
            return generator.choice(faults)

        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Remove all rules and the recorded requests."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a program reaches the server through the proxy."""
        return self.server.environment() | {"AWS_ENDPOINT_URL": self.endpoint}

    def client(self, **more: Any) -> Any:
        """Return a new boto3 client that goes through the proxy; see `S3Server.client`."""
        return self.server.client(**{"endpoint_url": self.endpoint, **more})

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        with self._lock:
            for connection in self._sockets:
                _shut(connection)
        socket.create_connection(self._listener.getsockname()).close()  # wakes up accept()
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            connection, _ = self._listener.accept()
            self._start(self._serve, connection)

    def _serve(self, client: socket.socket) -> None:
        """Answer the requests of one connection."""
        with self._tracked(client), client.makefile("rb") as reader:
            try:
                while self._exchange(client, reader):
                    pass
            except (OSError, EOFError):  # either side has closed its connection: reset the other
                _set_reset(client)

    def _exchange(self, client: socket.socket, reader: io.BufferedReader) -> bool:
        """Answer one request. Returns False if the connection has ended."""
        head = Head.read(reader)
        if head is None:
            return False
        method, target, _ = head.first.split(" ", 2)
        path, _, query = target.partition("?")
        headers = http.client.parse_headers(io.BytesIO(b"".join(head.lines[1:])))
        request = Request(method, urllib.parse.unquote(path), query, headers)
        with self._lock:
            self.requests.append(request)
            rules = list(self._rules)
        store = socket.create_connection(self._store)
        with self._tracked(store), store.makefile("rb") as answers:
            exchange = Exchange(request, head, client, reader, store, answers, self._stopping)
            for rule in rules:
                with self._lock:
                    fault = rule(request)
                if fault is not None:
                    request.faults.append(fault)
                    if fault(exchange):
                        return exchange.open
            exchange.relay(exchange.forward())
            return exchange.open

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        """Close the connection at the end of the block, and shut it down when the proxy stops."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets.add(connection)
            if self._stopping.is_set():
                _shut(connection)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(connection)
            connection.close()


class Head:
    """The head of a request or response: its first line and headers, unchanged."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.first = lines[0].decode("latin-1").rstrip()

    @classmethod
    def read(cls, reader: io.BufferedReader) -> "Head | None":
        """Read a head; None if the connection was closed before it. Raises EOFError if it is closed in the middle."""
        lines = [reader.readline()]
        if not lines[0]:
            return None
        while lines[-1] not in (b"\r\n", b"\n"):
            lines.append(_line(reader))
        return cls(lines)

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def length(self) -> int | None:
        """Content-Length; None for a chunked body, and for a body that ends with the connection."""
        length = self.value("Content-Length")
        return int(length) if length and not self.chunked else None

    @property
    def chunked(self) -> bool:
        return self.value("Transfer-Encoding") == "chunked"

    @property
    def closes(self) -> bool:
        return self.value("Connection") == "close" or "HTTP/1.0" in self.first

    def value(self, name: str) -> str:
        """Return the value of a header in lower case; empty if it is absent."""
        values = [line.split(b":", 1)[1] for line in self.lines[1:-1] if _is_header(line, name)]
        return values[0].decode("latin-1").strip().lower() if values else ""

    def drop(self, name: str) -> None:
        self.lines = [line for line in self.lines if not _is_header(line, name)]

    def set(self, name: str, value: str) -> None:
        self.drop(name)
        self.lines.insert(-1, f"{name}: {value}\r\n".encode())

    def __bytes__(self) -> bytes:
        return b"".join(self.lines)


@dataclass
class Exchange:
    """A request in progress, on which faults act."""

    request: Request
    head: Head  # of the request, as it is forwarded
    client: socket.socket
    reader: io.BufferedReader  # reads from the client's connection
    store: socket.socket
    answers: io.BufferedReader  # reads from the store's connection
    stopping: threading.Event
    open: bool = True  # whether the client's connection can be used for another request

    def __post_init__(self) -> None:
        self.open = not self.head.closes
        self._expects = self.head.value("Expect") == "100-continue"

    def read_body(self) -> None:
        """Read the request's body from the client and discard it."""
        if self._expects:
            self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in self._request_body():
            pass

    def forward(self) -> Head:
        """Send the request to the store, and return the head of its response."""
        self.store.sendall(bytes(self.head))
        if self._expects:
            answer = self._answer()
            if answer.status != 100:
                if self.head.length != 0:  # the client may or may not send the body
                    answer.set("Connection", "close")
                return answer
            self.client.sendall(bytes(answer))
        store_closed = False  # the store may answer without reading the whole body
        for piece in self._request_body():
            try:
                if not store_closed:
                    self.store.sendall(_framed(piece, self.head.chunked))
            except (BrokenPipeError, ConnectionResetError):
                store_closed = True
        if self.head.chunked and not store_closed:
            self.store.sendall(LAST_CHUNK)
        while (answer := self._answer()).status < 200:
            pass
        return answer

    def relay(self, answer: Head, limit: int | None = None, honest: bool = True) -> None:
        """Send the store's response to the client, at most `limit` bytes of its body."""
        bodyless = self.request.method == "HEAD" or answer.status in (204, 304)
        pieces = iter(()) if bodyless else _body(self.answers, answer.chunked, answer.length)
        whole = limit is None or bodyless or (answer.length is not None and answer.length <= limit)
        if limit is not None and not whole:
            pieces = _first(limit, pieces)
            if not honest and answer.length is not None:
                answer.set("Content-Length", str(limit))
        ended = (
            bodyless or answer.chunked or answer.length is not None
        )  # so that the client can recognize the end of the body
        if answer.closes or not ended or (honest and not whole):
            self.open = False
        self.client.sendall(bytes(answer))
        for piece in pieces:
            self.client.sendall(_framed(piece, answer.chunked))
        if answer.chunked and not bodyless and (whole or not honest):
            self.client.sendall(LAST_CHUNK)

    def answer(self, status: int, body: bytes) -> None:
        """Answer in place of the store, with XML."""
        reason = http.client.responses.get(status, "Unknown")
        lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/xml", "x-amz-request-id: INJECTED"]
        lines += [] if self.request.method == "HEAD" else [f"Content-Length: {len(body)}"]
        head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
        self.client.sendall(head if self.request.method == "HEAD" else head + body)

    def reset(self) -> None:
        """Reset the client's connection."""
        _set_reset(self.client)
        self.open = False

    def _answer(self) -> Head:
        head = Head.read(self.answers)
        if head is None:
            raise EOFError
        return head

    def _request_body(self) -> Iterator[bytes]:
        return _body(self.reader, self.head.chunked, self.head.length or 0)


def _body(reader: io.BufferedReader, chunked: bool, length: int | None) -> Iterator[bytes]:
    """Yield a body in pieces, without chunk framing. A body of unknown length ends with the connection."""
    if not chunked:
        yield from _pieces(reader, length)
        return
    while size := int(_line(reader).split(b";")[0], 16):
        yield from _pieces(reader, size)
        _line(reader)
    while _line(reader).strip():  # trailers, which S3 does not use
        pass


def _pieces(reader: io.BufferedReader, length: int | None) -> Iterator[bytes]:
    remaining = length
    while remaining != 0:
        piece = reader.read1(MAX_PIECE_BYTES if remaining is None else min(MAX_PIECE_BYTES, remaining))
        if not piece and remaining is None:
            return
        if not piece:
            raise EOFError
        remaining = None if remaining is None else remaining - len(piece)
        yield piece


def _is_header(line: bytes, name: str) -> bool:
    """Return whether this is the line of a header."""
    return line.lower().startswith(name.lower().encode() + b":")


def _line(reader: io.BufferedReader) -> bytes:
    line = reader.readline()
    if not line:
        raise EOFError
    return line


def _first(limit: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while limit and (piece := next(pieces, b"")):
        yield piece[:limit]
        limit -= len(piece[:limit])


def _framed(piece: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece


def _set_reset(connection: socket.socket) -> None:
    """Make closing the connection discard unsent data and send RST to the other side."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(connection: socket.socket) -> None:
    """Shut down a connection, which wakes up threads that wait for it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
