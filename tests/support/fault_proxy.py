"""An HTTP proxy between a client and a server of this machine that counts requests and does them harm on demand."""

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
    """One request as it came."""

    method: str
    target: str
    """Path and query."""
    headers: dict[str, str]
    """Their names in lower case."""


@dataclass
class Fault:
    """What happens to requests of a method whose target contains a text, the first `times` of them."""

    kind: str
    """status: answered with `value`; reset: the connection is broken; cut: the answer's body ends after `value` bytes;
    flip: byte `value` of the answer's body is another; flip-sent: the same of the request's body; hold: waits for the
    event `value` before the request is passed on."""
    method: str = "GET"
    contains: str = ""
    times: int = 1
    value: Any = 0
    done: int = field(default=0, init=False)


class FaultProxy:
    """Passes requests on to a port of this machine, from a port of its own, until `stop`."""

    def __init__(self, port: int) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._guard = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self, "target_port": port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget requests and faults."""
        with self._guard:
            self.requests, self._faults = [], []

    @contextmanager
    def harming(self, *faults: Fault) -> Iterator[None]:
        """Harm the requests of the block."""
        with self._guard:
            self._faults += faults
        try:
            yield
        finally:
            with self._guard:
                self._faults = [fault for fault in self._faults if fault not in faults]

    def seen(self, method: str, contains: str = "") -> list[Request]:
        """Requests so far of a method whose target contains a text."""
        with self._guard:
            return [found for found in self.requests if found.method == method and contains in found.target]

    def note(self, request: Request) -> Fault | None:
        """Count a request; the fault that it meets."""
        with self._guard:
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
        fault = self.proxy.note(Request(self.command, self.path, headers)) or Fault("none")
        if fault.kind == "status":
            self._answer(fault.value, {"Content-Type": "application/xml"}, SLOW_DOWN)
        elif fault.kind == "reset":
            self._reset()
        else:
            if fault.kind == "hold":
                fault.value.wait()
            if fault.kind == "flip-sent":
                body[fault.value] ^= 0x10
            self._pass_on(bytes(body), fault)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _pass_on(self, body: bytes, fault: Fault) -> None:
        server = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content = bytearray(answer.read())
        finally:
            server.close()
        hop = ("connection", "transfer-encoding", "content-length")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        if fault.kind == "flip":
            content[fault.value] ^= 0x10
        self._answer(
            answer.status, headers, bytes(content), cut=fault.value if fault.kind == "cut" else None, length=length
        )

    def _answer(
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
            # The client has gone.
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection in the way in which the other side sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
