"""The node's front door: a named socket for local programs, such as `noex-mp ps`.

Only processes of the same user get in, and only so many at a time: when one more comes, the one
that was silent longest has to go. So connections that nobody uses, or that somebody opens by the
thousand, keep neither the command line out nor the node from its descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

from noex_mp.errors import AlreadyRegisteredError, ConfigError
from noex_mp.node.connection import Connection
from noex_mp.transport import fds, paths
from noex_mp.transport.control_link import Bounds
from noex_mp.transport.platform import peer_of

__all__ = ["MAX_PROGRAMS", "PROGRAM_BOUNDS", "Complaints", "ControlSocket", "check_name"]

# In bytes: the name of the node's socket has at most 80, and an ending.
MAX_NAME: Final = 70

# So many local programs may be connected at a time.
MAX_PROGRAMS: Final = 64

# What one of them may cost us: no request of the command line is longer than its arguments, and
# what waits for it is what it has asked for. Few requests at a time, since others want their turn.
PROGRAM_BOUNDS: Final = Bounds(frame=2**20, backlog=4 * 2**20, read=1024)

# How long the socket rests when no descriptor is free, in seconds.
ACCEPT_AGAIN: Final = 0.5

# What happens at the door may be worth so many lines of the log in so many seconds.
MAX_COMPLAINTS: Final = 10
COMPLAIN_AGAIN: Final = 1.0


def check_name(name: str, example: str) -> None:
    """See that a node can have this name.

    Args:
        example: A name that it could have, as it is to be written.

    Raises:
        ConfigError: It can be no name.
    """
    if not name.isprintable() or not name or "/" in name or name.startswith((".", "-")):
        raise ConfigError(
            f"expected a node's name to be a word without slashes, got {name!r}\n"
            f"For example: {example}"
        )
    if len(name.encode()) > MAX_NAME:
        raise ConfigError(f"a node's name has at most {MAX_NAME} bytes, got {name!r}")


class Complaints:
    """Passes complaints on, and when there are many, says only how many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Callable[[str], None]) -> None:
        self._loop = loop
        self._say = say
        self._said = 0
        self._unsaid = 0

    def __call__(self, text: str) -> None:
        """Complain, unless that was done too often just now."""
        if self._said == MAX_COMPLAINTS:
            self._unsaid += 1
            return
        if self._said == 0:
            self._loop.call_later(COMPLAIN_AGAIN, self._again)
        self._said += 1
        self._say(text)

    def _again(self) -> None:
        self._said = 0
        if self._unsaid:
            count, self._unsaid = self._unsaid, 0
            self(f"and {count} more like this")


class ControlSocket:
    """A named socket, and the local programs that have come in.

    Attributes:
        path: Its file.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        connect: Callable[[socket.socket, str], Connection],
        complain: Callable[[str], None],
    ) -> None:
        """Listen under the node's name.

        Args:
            loop: The root's loop.
            name: The node's name.
            connect: Makes a connection of a socket, with a label for people.
            complain: Says what has gone wrong at the door.

        Raises:
            AlreadyRegisteredError: A running node has the name.
            ConfigError: The folder for it is not ours alone.
            OSError: There is no folder for it that can be written.
        """
        self._loop = loop
        self._connect = connect
        self._complain = complain
        # In the order in which they were last heard of.
        self._programs: dict[Connection, None] = {}
        folder = paths.runtime_folder()
        try:
            self._listener = paths.bind_unix(folder, f"{name}.sock")
        except FileExistsError:
            raise AlreadyRegisteredError(name, "node") from None
        self.path = folder / f"{name}.sock"
        self._listen()

    def heard(self, connection: Connection) -> None:
        """Note that a local program has said something."""
        if connection in self._programs:
            del self._programs[connection]
            self._programs[connection] = None

    def forget(self, connection: Connection) -> None:
        """Note that a local program is gone."""
        self._programs.pop(connection, None)

    def close(self) -> None:
        """Let nobody in any more."""
        self._loop.remove_reader(self._listener.fileno())
        # Before it is closed: as long as it listens, nobody else takes the name.
        with contextlib.suppress(OSError):
            self.path.unlink()
        fds.disown(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        # One at a time: the servers want their turn.
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptor is free: look again in a moment, instead of all the time.
            self._complain(f"no local program can connect: {error.strerror}")
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(ACCEPT_AGAIN, self._listen)
            return
        with contextlib.closing(sock):
            os_pid, uid = peer_of(sock)
            if uid != os.getuid():
                self._complain(f"refused process {os_pid} of the user with the id {uid}")
                return
            while len(self._programs) >= MAX_PROGRAMS:
                self._send_away(next(iter(self._programs)))
            label = f"a local program (os pid {os_pid})" if os_pid else "a local program"
            self._programs[self._connect(fds.high_socket(sock), label)] = None

    def _send_away(self, connection: Connection) -> None:
        self._complain(
            f"more than {MAX_PROGRAMS} local programs are connected; {connection.label} was "
            f"silent longest and is disconnected"
        )
        self.forget(connection)
        connection.close()
