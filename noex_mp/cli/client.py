"""The way from another terminal to the running nodes of this user.

Every node with a name listens at a socket in the runtime folder. A program that connects there is
a client like any other, but for pickles, which are not taken from it or by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from noex_mp.cli import statuses
from noex_mp.cli.results import show
from noex_mp.cli.words import listed
from noex_mp.client.client import Client, connect_client
from noex_mp.client.reports import reload_on
from noex_mp.core.health import Health
from noex_mp.core.reloaded import Reloaded
from noex_mp.errors import CallError, CallTimedOutError, NodeDownError, NoNodeError
from noex_mp.transport.paths import connect_unix, remove_stale, runtime_folders
from noex_mp.transport.platform import peer_of

__all__ = ["PATIENCE", "RunningNode", "ask_all", "close_all", "connect", "run_with_nodes"]

T = TypeVar("T")

_ENDING: Final = ".sock"

# How long a node may take to answer a question of its own, in seconds.
PATIENCE: Final = 5.0


class RunningNode:
    """A node of this user, and our connection to it.

    Attributes:
        name: Its name.
        os_pid: Its root process, or 0 where the system does not tell.
        client: Makes calls there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, sock: socket.socket) -> None:
        self.name = name
        self.os_pid, _ = peer_of(sock)
        self.client: Client = connect_client(loop, sock, "", allow_pickle=False)

    async def servers(self, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the servers of the node, each as plain values.

        Args:
            patience: How long to wait for them, in seconds.

        Raises:
            CallTimedOutError: The node does not answer.
            NodeDownError: It has stopped.
        """
        servers: list[dict[str, Any]] = await self._ask("ps", patience)
        return servers

    async def exits(self, server: str | None) -> list[dict[str, Any]]:
        """Return the last exit reports of the node, or of one server, each as plain values.

        Raises:
            CallTimedOutError: The node does not answer.
            NodeDownError: It has stopped.
        """
        reports: list[dict[str, Any]] = await self._ask("exits", PATIENCE, server)
        return reports

    async def health(self) -> Health:
        """Return how the node is.

        Raises:
            CallTimedOutError: The node does not answer.
            NodeDownError: It has stopped.
        """
        return Health.from_plain(await self._ask("health", PATIENCE))

    async def dead_letters(self) -> dict[str, Any]:
        """Return the `letters` of the node, each as plain values, and how many were `dropped`.

        Raises:
            CallTimedOutError: The node does not answer.
            NodeDownError: It has stopped.
        """
        answer: dict[str, Any] = await self._ask("dead_letters", PATIENCE)
        return answer

    async def dead_letter(self, number: int) -> dict[str, Any] | None:
        """Return one letter as plain values, with its reports; None if it is not there.

        Raises:
            CallTimedOutError, NodeDownError: As `dead_letters`.
        """
        letter: dict[str, Any] | None = await self._ask("dead_letter", PATIENCE, number)
        return letter

    async def drop_dead_letter(self, number: int) -> bool:
        """Forget a letter; return whether it was there.

        Raises:
            CallTimedOutError, NodeDownError: As `dead_letters`.
        """
        was_there: bool = await self._ask("drop_dead_letter", PATIENCE, number)
        return was_there

    async def send_courier(self, number: int) -> tuple[int, str]:
        """Let the node start the server that sends a letter again; return its number and class.

        Raises:
            NoDeadLetterError: The letter cannot be sent again.
            StartError: The courier did not start.
            CallTimedOutError, NodeDownError: As `dead_letters`.
        """
        sid, label = await self._ask("send_courier", PATIENCE, number)
        return sid, label

    async def reload(self, timeout: float | None) -> Reloaded:
        """Let the node replace its servers, however long that takes.

        Raises:
            PreloadError, ReloadFailedError, NodeDownError: As `Node.reload`.
        """
        return await reload_on(self.client, timeout)

    async def _ask(self, method: str, patience: float, *parameters: Any) -> Any:
        try:
            return await asyncio.wait_for(self.client.request(method, *parameters), patience)
        except TimeoutError:
            raise CallTimedOutError(str(self), patience) from None
        except NodeDownError:
            how = "has died" if self.client.root_died else "has stopped"
            raise NodeDownError(f"{self} {how}") from None

    def __str__(self) -> str:
        return f"node {self.name} (os pid {self.os_pid})" if self.os_pid else f"node {self.name}"


def connect(name: str | None) -> list[RunningNode]:
    """Connect to the node with this name, or to all that run, in the order of their names.

    Raises:
        NoNodeError: There is none.
    """
    loop = asyncio.get_running_loop()
    found, silent = _sockets()
    chosen = [(each, sock) for each, sock in found if name is None or each == name]
    for each, sock in found:
        if (each, sock) not in chosen:
            sock.close()
    if chosen:
        return [RunningNode(loop, each, sock) for each, sock in chosen]
    if name in silent or (name is None and silent):
        raise NoNodeError(f"node {name or silent[0]} does not answer: it takes no connections")
    if not found:
        raise NoNodeError(f"no node is running\n{_what_to_do()}")
    raise NoNodeError(f"no node is called {name!r}; running: {listed(each for each, _ in found)}")


def _what_to_do() -> str:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        uid = os.stat(folder).st_uid
        if uid != os.getuid():
            # Root looks after a service, or somebody has come here by `su`.
            return (
                f"XDG_RUNTIME_DIR is {folder}, which is another user's, as are the nodes there; "
                f"for those write:\n"
                f"sudo -u '#{uid}' XDG_RUNTIME_DIR={folder} noex-mp ..."
            )
    return "Start one with: noex-mp run app:tree"


def run_with_nodes(
    name: str | None, act: Callable[[list[RunningNode]], Awaitable[int]], *, without: str = ""
) -> int:
    """Do something with the running nodes, or one of them; return the exit status.

    Args:
        name: The node's name; None means all that run.
        act: What is done; it returns the exit status.
        without: What is printed where there is no node, besides the error.
    """
    return asyncio.run(_with_nodes(name, act, without))


async def _with_nodes(
    name: str | None, act: Callable[[list[RunningNode]], Awaitable[int]], without: str
) -> int:
    try:
        nodes = connect(name)
    except NoNodeError as error:
        if without:
            show(without)
        print(f"noex-mp: {error}", file=sys.stderr)
        return statuses.FAILED
    try:
        return await act(nodes)
    finally:
        close_all(nodes)


async def ask_all(
    nodes: list[RunningNode], ask: Callable[[RunningNode], Awaitable[T]]
) -> tuple[list[tuple[RunningNode, T]], int]:
    """Ask several nodes at once; return what they answered, and the exit status.

    A node that does not answer is named on standard error, and does not keep the others.
    """
    status = statuses.OK
    answers = await asyncio.gather(*map(ask, nodes), return_exceptions=True)
    found: list[tuple[RunningNode, T]] = []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, CallError):
            print(f"noex-mp: {answer}", file=sys.stderr)
            status = statuses.FAILED
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found.append((node, answer))
    return found, status


def close_all(nodes: list[RunningNode]) -> None:
    """End the connections."""
    for node in nodes:
        node.client.close()


def _sockets() -> tuple[list[tuple[str, socket.socket]], list[str]]:
    """Return the nodes that took our connection, and the names of those that did not."""
    found: list[tuple[str, socket.socket]] = []
    silent: list[str] = []
    files = [path for folder in runtime_folders() for path in folder.glob(f"*{_ENDING}")]
    for path in sorted(files, key=lambda path: path.name):
        name = path.name.removesuffix(_ENDING)
        try:
            found.append((name, connect_unix(path.parent, path.name)))
        except ConnectionRefusedError:
            # What a dead node has left.
            with contextlib.suppress(OSError):
                remove_stale(path.parent, path.name)
        except TimeoutError:
            silent.append(name)
        except FileNotFoundError:
            # It has stopped since we looked.
            continue
    return found, silent
