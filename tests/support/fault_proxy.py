"""An HTTP proxy in front of a local server that records requests and injects faults."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    target: str
    """Path and query."""
    headers: dict[str, str]
    """By lower-case name."""


@dataclass
class Fault:
    """A fault for the first `times` requests with a given method whose target contains a text."""

    kind: str
    """status: the response has the status `value`; reset: the connection is reset; cut: the response body ends after
    `value` bytes; flip: a bit in byte `value` of the response body is flipped; flip-sent: the same in the request body;
    hold: the request is forwarded after the event `value` is set."""
    method: str = "GET"
    contains: str = ""
    times: int = 1
    value: Any = 0
    done: int = field(default=0, init=False)


class FaultProxy:
    """Forwards requests from its own port to another local port until `stop`."""

    def __init__(self, port: int) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self, "target_port": port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Discard recorded requests and faults."""
        with self._lock:
            self.requests, self._faults = [], []

    @contextmanager
    def injecting(self, *faults: Fault) -> Iterator[None]:
        """Inject faults into the requests of the block."""
        with self._lock:
            self._faults += faults
        try:
            yield
        finally:
            with self._lock:
                self._faults = [fault for fault in self._faults if fault not in faults]

    def seen(self, method: str, contains: str = "") -> list[Request]:
        """Return the recorded requests with a method whose target contains a text."""
        with self._lock:
            return [request for request in self.requests if request.method == method and contains in request.target]

    def record(self, request: Request) -> Fault | None:
        """Record a request and return the fault to inject, if any."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.method == request.method and fault.contains in request.target and fault.done < fault.times:
                    fault.done += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[FaultProxy]
    target_port: ClassVar[int]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.proxy.record(Request(self.command, self.path, headers)) or Fault("none")
        if fault.kind == "status":
            self._respond(fault.value, {"Content-Type": "application/xml"}, SLOW_DOWN)
        elif fault.kind == "reset":
            self._reset()
        else:
            if fault.kind == "hold":
                fault.value.wait()
            if fault.kind == "flip-sent":
                body[fault.value] ^= 0x10
            self._forward(bytes(body), fault)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _forward(self, body: bytes, fault: Fault) -> None:
        server = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    server.putheader(name, value)
            server.endheaders(body)
            response = server.getresponse()
            content = bytearray(response.read())
        finally:
            server.close()
        hop = ("connection", "transfer-encoding", "content-length")
        headers = {name: value for name, value in response.getheaders() if name.lower() not in hop}
        length = response.headers.get("Content-Length") if self.command == "HEAD" else None
        if fault.kind == "flip":
            content[fault.value] ^= 0x10
        self._respond(
            response.status, headers, bytes(content), cut=fault.value if fault.kind == "cut" else None, length=length
        )

    def _respond(
        self, status: int, headers: dict[str, str], body: bytes, *, cut: int | None = None, length: str | None = None
    ) -> None:
        try:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
        except OSError:
            # The client has disconnected.
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
