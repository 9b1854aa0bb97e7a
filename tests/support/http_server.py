"""A web server in a thread of the tests: it serves a folder, with ranges or without, and with planted faults."""

import contextlib
import http.server
import re
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any


class FileServer(http.server.ThreadingHTTPServer):
    """Server of the files of a folder. Faults are planted by the path of a request, without the slash in front."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.scheme = "http"
        self.ranges = True
        self.head = True
        self.etags = True
        self.statuses: dict[str, list[int]] = {}  # of the next responses; the last one is repeated
        self.retry_after = ""  # header of responses with these statuses
        self.cut: dict[str, int] = {}  # bytes that are announced but not sent
        self.redirects: dict[str, str] = {}  # to a URL
        self.requests: list[tuple[str, str]] = []  # method and path

    @property
    def url(self) -> str:
        """URL of the folder."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def paths(self, method: str = "GET") -> list[str]:
        """Return the paths of the requests with a method."""
        return [path for used, path in self.requests if used == method]

    def handle_error(self, *arguments: Any) -> None:
        """Stay silent when a client closes its connection."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        server, path = self.server, urllib.parse.unquote(self.path.lstrip("/"))
        server.requests.append((self.command, path))
        if path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[path])
            self.end_headers()
            return
        if statuses := server.statuses.get(path):
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if server.retry_after:
                    self.send_header("Retry-After", server.retry_after)
                self.end_headers()
                return
        if not with_body and not server.head:
            self.send_error(501)
            return
        file = server.folder / path
        if not file.is_file():
            self.send_error(404)
            return
        self._send(file, with_body, server.cut.get(path, 0))

    def _send(self, file: Path, with_body: bool, cut: int) -> None:
        content, size = file.read_bytes(), file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        if wanted and int(wanted[1]) >= size:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            content = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_header("Content-Range", f"bytes {wanted[1]}-{int(wanted[1]) + len(content) - 1}/{size}")
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.server.etags:
            self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) - cut])

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve_folder(folder: Path, certificate: Path | None = None) -> Iterator[FileServer]:
    """Serve a folder, over https if there is a certificate: a PEM file with a key."""
    with FileServer(folder) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
