"""`noex-mp run --health PORT`: `/healthz` and `/readyz` over HTTP, for Kubernetes and others.

`/healthz` is answered by the loop that keeps the servers alive; when that hangs, nobody answers.
`/readyz` is 200 or 503, and its body says what there is against it. Both tell nothing that is worth
stealing, and whoever asks can cost us little: one short request, one answer, few at a time, and a
time limit for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from noex_mp.core.health import Health
from noex_mp.errors import ConfigError

__all__ = ["Probes", "parse_address"]

# A request of a probe has some 200 bytes.
MAX_REQUEST: Final = 4096

# How long one may take, from its first byte to our last, in seconds.
PATIENCE: Final = 5.0

# So many may be in work at a time. For the next one the oldest is turned away: a probe is answered
# in a moment, and who has been here for long is none.
MAX_CONNECTIONS: Final = 32

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `8080`, `127.0.0.1:8080` or `[::1]:8080`; no host means all.

    Raises:
        ConfigError: It is no such address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise ConfigError(
            f"expected --health to be a port, or a host and a port, got {text!r}\n"
            f"For example: --health 8080, or --health 127.0.0.1:8080"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


class Probes:
    """Answers HTTP probes at a port.

    Attributes:
        port: The port; the system chooses one for 0.
    """

    def __init__(self, address: str) -> None:
        """Take the port; who connects waits until `begin`.

        Raises:
            ConfigError: That is no address, or the port is taken.
        """
        host, port = parse_address(address)
        try:
            self._socket = _listen(host, port)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"--health {address}: {error}") from None
        self.port: int = self._socket.getsockname()[1]
        self._health: Callable[[], Health] = lambda: Health(False, "starting")
        self._server: asyncio.Server | None = None
        # The oldest first.
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def begin(self, health: Callable[[], Health]) -> None:
        """Answer from the running loop."""
        self._health = health
        self._server = await asyncio.start_server(
            self._connected, sock=self._socket, limit=MAX_REQUEST
        )

    async def end(self) -> None:
        """Answer no more; whoever still waits is turned away."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Give the port back, also where the loop was never run."""
        self._socket.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks[task] = None
        task.add_done_callback(partial(self._served, writer))

    def _served(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        # Here, since one that is cancelled before its first step does nothing at all.
        writer.transport.abort()
        self._tasks.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever goes wrong here is the other side's doing, and no matter for us.
        try:
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(request, self._health))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # With the time limit among them.
            pass


def answer(request: bytes, health: Callable[[], Health]) -> bytes:
    """Return the answer to a request, as HTTP has both."""
    method, target, version = _request_line(request)
    path = target.partition("?")[0]
    body: dict[str, Any] = {}
    if not version.startswith("HTTP/1."):
        status = 400
    elif method not in ("GET", "HEAD"):
        status = 405
    elif path == "/healthz":
        status, body = 200, {"live": True}
    elif path == "/readyz":
        found = health()
        status, body = 200 if found.ready else 503, found.as_plain()
    else:
        status = 404
    return _response(status, body or {"error": _REASONS[status]}, has_body=method != "HEAD")


def _request_line(request: bytes) -> tuple[str, str, str]:
    words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return (words[0], words[1], words[2]) if len(words) == 3 else ("", "", "")


def _response(status: int, body: dict[str, Any], *, has_body: bool) -> bytes:
    text = json.dumps(body).encode() + b"\n"
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + (text if has_body else b"")


def _listen(host: str, port: int) -> socket.socket:
    if host:
        [found, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(found[4][:2], family=found[0])
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
