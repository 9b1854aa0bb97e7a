"""A proxy in front of an S3 server that lets chosen requests suffer what happens on real networks and stores.

Requests and answers pass through it byte by byte, signatures stay valid, and large bodies are never held in memory.
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

PIECE = 1 << 16  # bytes
LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Request:
    """A request as the client sent it, and the faults that it suffered."""

    method: str
    path: str  # /bucket/key, decoded, without the query
    query: str
    headers: Message  # by name in any case; None where absent
    faults: list["Fault"] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The object's key; empty where a bucket is asked for."""
        return (self.path.split("/", 2) + [""])[2]


Fault = Callable[["Exchange"], bool]  # True where it has answered, so that nothing is left to do
Rule = Callable[[Request], Fault | None]


@dataclass(frozen=True)
class Status:
    """An error of the store, as S3 words it. The request's body is read; nothing is forwarded."""

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
    """The connection is reset: before anything is forwarded, or `after` the store has carried the request out."""

    after: bool = False

    def __call__(self, exchange: "Exchange") -> bool:
        if self.after:
            exchange.forward()
        exchange.reset()
        return True


@dataclass(frozen=True)
class Truncate:
    """Only so many bytes of the answer's body arrive, then the connection is closed.

    Where not `honest`, the connection stays, and Content-Length tells the short length: HTTP does not show the loss,
    but S3's checksums and Content-Range still do.
    """

    bytes: int
    honest: bool = True

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.relay(exchange.forward(), self.bytes, self.honest)
        return True


@dataclass(frozen=True)
class Delay:
    """The request waits before it goes on."""

    seconds: float

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.stopping.wait(self.seconds)
        return False


@dataclass(frozen=True)
class Hang:
    """The request is read, and never forwarded or answered as long as the proxy runs."""

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.read_body()
        exchange.stopping.wait()
        exchange.open = False
        return True


@dataclass(frozen=True)
class DropHeader:
    """The store does not see this header of the request. Where it was signed, only an anonymous store accepts that."""

    name: str

    def __call__(self, exchange: "Exchange") -> bool:
        exchange.head.drop(self.name)
        return False


class FaultProxy:
    """A running proxy, between `with` and its end.

    All rules that fit a request take effect, in the order in which they were added, until one of them answers it.
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
        """Let the next requests that fit suffer a fault: so many `times`, or always where that is None."""
        left = times

        def rule(request: Request) -> Fault | None:
            nonlocal left
            if left == 0 or not when(request):
                return None
            left = left and left - 1
            return fault

        with self._lock:
            self._rules.append(rule)

    def random(self, seed: int, rate: float, faults: Sequence[Fault], in_a_row: int = 2) -> None:
        """Let each request suffer one of the faults with a probability, but not more than so often in a row.

        A request is known by its method, key, query and range: what happens to the n-th of its tries depends on the
        seed alone, whatever the bucket's name is and whatever else the client does at the same time.
        """
        tries: Counter[tuple[str, ...]] = Counter()
        suffered: Counter[tuple[str, ...]] = Counter()

        def rule(request: Request) -> Fault | None:
            key = (request.method, request.key, request.query, request.headers["Range"] or "")
            tries[key] += 1
            dice = random.Random(f"{seed} {key} {tries[key]}")
            if suffered[key] == in_a_row or dice.random() >= rate:
                suffered[key] = 0
                return None
            suffered[key] += 1
            return dice.choice(faults)

        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules and the requests seen so far."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()

    def environment(self) -> dict[str, str]:
        """What a program needs to reach the server through the proxy."""
        return self.server.environment() | {"AWS_ENDPOINT_URL": self.endpoint}

    def client(self, **more: Any) -> Any:
        """A new boto3 client that goes through the proxy, as `S3Server.client`."""
        return self.server.client(**{"endpoint_url": self.endpoint, **more})

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        with self._lock:
            for connection in self._sockets:
                _shut(connection)
        socket.create_connection(self._listener.getsockname()).close()  # so that accepting ends
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
            except (OSError, EOFError):  # either side is gone: let the other learn it
                _set_reset(client)

    def _exchange(self, client: socket.socket, reader: io.BufferedReader) -> bool:
        """Answer one request. False where the connection has come to its end."""
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
        """Close the connection at the end, and break it when the proxy stops."""
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
    """The lines before a body, kept as they came."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.first = lines[0].decode("latin-1").rstrip()

    @classmethod
    def read(cls, reader: io.BufferedReader) -> "Head | None":
        """The next one; None where the connection was closed before it. Raises EOFError where it ends within."""
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
        """Content-Length, which chunked bodies and those that end with the connection do not have."""
        length = self.value("Content-Length")
        return int(length) if length and not self.chunked else None

    @property
    def chunked(self) -> bool:
        return self.value("Transfer-Encoding") == "chunked"

    @property
    def closes(self) -> bool:
        return self.value("Connection") == "close" or "HTTP/1.0" in self.first

    def value(self, name: str) -> str:
        """Of a header, in small letters; empty where there is none."""
        values = [line.split(b":", 1)[1] for line in self.lines[1:-1] if _names(line, name)]
        return values[0].decode("latin-1").strip().lower() if values else ""

    def drop(self, name: str) -> None:
        self.lines = [line for line in self.lines if not _names(line, name)]

    def set(self, name: str, value: str) -> None:
        self.drop(name)
        self.lines.insert(-1, f"{name}: {value}\r\n".encode())

    def __bytes__(self) -> bytes:
        return b"".join(self.lines)


@dataclass
class Exchange:
    """One request on its way: what faults act on."""

    request: Request
    head: Head  # of the request, as it will be forwarded
    client: socket.socket
    reader: io.BufferedReader  # of the client's connection
    store: socket.socket
    answers: io.BufferedReader  # of the store's connection
    stopping: threading.Event
    open: bool = True  # may the client's connection be used again?

    def __post_init__(self) -> None:
        self.open = not self.head.closes
        self._expects = self.head.value("Expect") == "100-continue"

    def read_body(self) -> None:
        """Take the request's body from the client and forget it."""
        if self._expects:
            self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in self._request_body():
            pass

    def forward(self) -> Head:
        """Send the request to the store, and give the head of its answer."""
        self.store.sendall(bytes(self.head))
        if self._expects:
            answer = self._answer()
            if answer.status != 100:
                if self.head.length != 0:  # the client may send the body or not
                    answer.set("Connection", "close")
                return answer
            self.client.sendall(bytes(answer))
        deaf = False  # the store may answer without reading all
        for piece in self._request_body():
            try:
                if not deaf:
                    self.store.sendall(_framed(piece, self.head.chunked))
            except (BrokenPipeError, ConnectionResetError):
                deaf = True
        if self.head.chunked and not deaf:
            self.store.sendall(LAST_CHUNK)
        while (answer := self._answer()).status < 200:
            pass
        return answer

    def relay(self, answer: Head, limit: int | None = None, honest: bool = True) -> None:
        """Give the store's answer to the client, or so many bytes of its body."""
        bodyless = self.request.method == "HEAD" or answer.status in (204, 304)
        pieces = iter(()) if bodyless else _body(self.answers, answer.chunked, answer.length)
        whole = limit is None or bodyless or (answer.length is not None and answer.length <= limit)
        if limit is not None and not whole:
            pieces = _first(limit, pieces)
            if not honest and answer.length is not None:
                answer.set("Content-Length", str(limit))
        ended = bodyless or answer.chunked or answer.length is not None  # so that the client sees the body's end
        if answer.closes or not ended or (honest and not whole):
            self.open = False
        self.client.sendall(bytes(answer))
        for piece in pieces:
            self.client.sendall(_framed(piece, answer.chunked))
        if answer.chunked and not bodyless and (whole or not honest):
            self.client.sendall(LAST_CHUNK)

    def answer(self, status: int, body: bytes) -> None:
        """Answer in the store's place, with XML."""
        reason = http.client.responses.get(status, "Unknown")
        lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/xml", "x-amz-request-id: INJECTED"]
        lines += [] if self.request.method == "HEAD" else [f"Content-Length: {len(body)}"]
        head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
        self.client.sendall(head if self.request.method == "HEAD" else head + body)

    def reset(self) -> None:
        """Break the client's connection."""
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
    """A body in pieces, without the framing of chunks. With neither chunks nor a length it ends with the connection."""
    if not chunked:
        yield from _pieces(reader, length)
        return
    while size := int(_line(reader).split(b";")[0], 16):
        yield from _pieces(reader, size)
        _line(reader)
    while _line(reader).strip():  # trailers, which S3 does not use
        pass


def _pieces(reader: io.BufferedReader, length: int | None) -> Iterator[bytes]:
    left = length
    while left != 0:
        piece = reader.read1(PIECE if left is None else min(PIECE, left))
        if not piece and left is None:
            return
        if not piece:
            raise EOFError
        left = None if left is None else left - len(piece)
        yield piece


def _names(line: bytes, name: str) -> bool:
    """Is this the line of that header?"""
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
    """Let closing the connection throw away what is on its way, and tell the other side with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(connection: socket.socket) -> None:
    """Wake up who waits for the connection."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
