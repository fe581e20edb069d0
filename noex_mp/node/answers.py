"""What programs and clients ask of a node, and who may ask for it.

What concerns supervisors stands in `requests`, and is answered here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, get_args

from noex_mp.core.health import Health
from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.core.report_plain import as_plain
from noex_mp.errors import ConfigError, NoServerError, RemoteProtocolError
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.connection import Connection
from noex_mp.node.dead_letters import DeadLetters
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.members import Member
from noex_mp.node.reload import Reload
from noex_mp.node.requests import SupervisorRequests
from noex_mp.node.signals import Signals
from noex_mp.node.starts import StartFailedError
from noex_mp.node.supervisor import Supervision
from noex_mp.node.worker_starts import WorkerStarts
from noex_mp.wire.envelopes import RESPONSE, RESPONSES

__all__ = ["FOR_PROGRAMS", "MAX_REQUESTS", "Answers"]

# So many requests of one local program may be in work at a time.
MAX_REQUESTS: Final = 256

# How long the end of the node waits for answers, in seconds.
PATIENCE: Final = 1.0

# What ends servers: none may wait for its own end. The last parameter says who asks.
_ENDS: Final = frozenset({"stop", "terminate_child", "stop_supervisor"})

# What a program outside of the node may ask for: nothing that runs code of its choice. (A courier
# sends what a process of the node's own has sent before. A reload runs the code that stands in the
# application's own files, which only those who may change it can choose; and whoever gets in is the
# same user, who may stop the node and start it again as well.)
FOR_PROGRAMS: Final = frozenset(
    {
        "stop",
        "whereis",
        "is_running",
        "names",
        "ps",
        "exits",
        "health",
        "dead_letters",
        "dead_letter",
        "drop_dead_letter",
        "send_courier",
        "reload",
    }
)


class Answers:
    """Answers requests, each in a task of its own."""

    def __init__(
        self,
        node: str,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        supervision: Supervision,
        signals: Signals,
        worker_starts: WorkerStarts,
        reload: Reload,
        events: Events,
        at_once: dict[str, Callable[..., Any]],
        *,
        health: Callable[[], Health],
    ) -> None:
        """Make what answers.

        Args:
            loop: The root's.
            directory: The servers there are.
            supervision: Starts and stops them.
            signals: Takes exit signals to them.
            worker_starts: Has the code that they start with.
            reload: Gives them other code.
            at_once: Further methods, for the node's own processes, which wait for nothing: what
                they ask for in REQUESTS.
            health: Returns how the node is.
        """
        self._loop = loop
        self._directory = directory
        self._supervision = supervision
        self._signals = signals
        self._worker_starts = worker_starts
        self._reload = reload
        self._supervisors = SupervisorRequests(
            directory, supervision, prepare_code=worker_starts.prepare_code
        )
        dead_letters = DeadLetters(node, directory, events, spawn=self._spawn)
        self._at_once = at_once
        self._how_it_is = health
        self._tasks: set[asyncio.Task[None]] = set()
        self._methods: dict[str, Callable[..., Any]] = {
            "spawn": self._spawn,
            "stop": self._stop,
            "exit": self._exit,
            "whereis": self._whereis,
            "is_running": self._is_running,
            "names": self._names,
            "ps": self._ps,
            "exits": self._exits,
            "health": self._health,
            "reload": self._reload_all,
            **self._supervisors.methods,
            **dead_letters.methods,
            "stop_supervisor": self._stop_supervisor,
        }

    def known(self, target: int | str) -> Member | None:
        """Return a server or a supervisor, also a server that is gone and not yet forgotten."""
        if isinstance(target, int):
            return self._directory.known(target) or self._directory.supervisor(target)
        return self._find(target) or self._supervisors.find(target)

    def _find(self, target: int | str) -> Child | None:
        if isinstance(target, int):
            return self._directory.get(target)
        found = self._directory.named(target)
        if found is None and target.startswith("/"):
            found = self._supervisors.at_path(target)
        return found if isinstance(found, Child) else None

    # --- taking and refusing -----------------------------------------------------------

    def take(self, connection: Connection, frame: list[Any]) -> None:
        """Answer a request as soon as that can be done.

        Raises:
            RemoteProtocolError: A program has too many of them in work.
        """
        _, request, method, *parameters = frame
        connection.requests += 1
        if connection.requests > MAX_REQUESTS and not connection.trusted:
            problem = f"more than {MAX_REQUESTS} requests at a time"
            raise RemoteProtocolError(connection.label, problem)
        task = self._loop.create_task(self._answer(connection, request, method, parameters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def take_all(self, connection: Connection, frame: list[Any]) -> None:
        """Answer, now and together, requests that wait for nothing: there may be thousands.

        So they keep their place among all other news: what a server claims comes before its end.

        Raises:
            RemoteProtocolError: A program has sent them.
        """
        if not connection.trusted:
            raise RemoteProtocolError(connection.label, "requests for the node's own processes")
        answers: list[list[Any]] = []
        for request, method, *parameters in frame[1]:
            try:
                answers.append([request, True, self._at_once[method](*parameters)])
            except Exception as error:
                answers.append([request, False, [error, b""]])
        connection.post([RESPONSES, answers])

    async def all_given(self) -> None:
        """Wait until all requests have been answered, as far as that is so in a moment.

        All servers have stopped. Who still waits then hears that the node is down, as in OTP
        whoever calls a process that ends.
        """
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=PATIENCE)
            for task in late:
                task.cancel()

    async def _answer(
        self, connection: Connection, request: int, method: str, parameters: list[Any]
    ) -> None:
        try:
            if not connection.trusted and method not in FOR_PROGRAMS:
                raise ConfigError(f"only the node's own processes may ask it to {method}")
            if method in _ENDS:
                self._refuse_own_end(connection, method, *parameters)
            value = await self._methods[method](*parameters)
        except StartFailedError as failure:
            answer: list[Any] = [RESPONSE, request, False, [failure.error, failure.cause]]
        except Exception as error:
            answer = [RESPONSE, request, False, [error, b""]]
        else:
            answer = [RESPONSE, request, True, value]
        connection.requests -= 1
        if not connection.closed:
            connection.post(answer)

    def _refuse_own_end(self, connection: Connection, method: str, *parameters: Any) -> None:
        worker = connection.worker
        if worker is None:
            return
        key = parameters[1] if method == "terminate_child" else None
        asker: int = parameters[-1]
        for child in self._would_end(parameters[0], key):
            # In a worker of its own it is the only one who can ask.
            if child.worker is worker and (not worker.shared or child.sid == asker):
                raise ConfigError(
                    "a server cannot wait for its own end\n"
                    "Let the handler return Stop(), or Reply(value, then=Stop())."
                )

    def _would_end(self, target: int | str, key: int | str | None) -> list[Child]:
        """Return the servers whose end somebody asks for.

        Args:
            target: A server, or a supervisor.
            key: Which child of the supervisor is meant; None means itself.
        """
        member: Member | None
        if key is not None:
            member = self._supervisors.child_of(self._supervisors.get(target), key)
        else:
            member = self._find(target) or self._supervisors.find(target)
        if isinstance(member, Child):
            member = _whole_of(member)
        if isinstance(member, Branch):
            return list(member.children())
        return [member] if isinstance(member, Child) else []

    # --- servers -----------------------------------------------------------------------

    async def _spawn(self, wire: dict[str, Any]) -> list[Any]:
        await self._worker_starts.prepare_code(wire)
        member = await self._supervision.spawn(wire)
        if isinstance(member, Branch) and member.front is not None:
            member = member.front
        return [member.sid, member.label]

    async def _stop(self, target: int | str, reason: Any, limit: Any, asker: int = 0) -> None:
        child = self._find(target)
        _check_limit(limit)
        if child is not None:
            await self._supervision.stop(_whole_of(child), _reason(reason), limit)
        elif isinstance(target, str):
            raise NoServerError(repr(target))

    async def _exit(self, target: int | str, reason: ExitReason) -> None:
        child = self._find(target)
        if child is not None:
            self._signals.exit(child, reason)
        elif isinstance(target, str):
            raise NoServerError(repr(target))

    async def _stop_supervisor(
        self, where: int | str, reason: Any, limit: Any, asker: int = 0
    ) -> None:
        branch = self._supervisors.find(where)
        _check_limit(limit)
        if branch is not None:
            await self._supervision.stop(branch, _reason(reason), limit)
        elif isinstance(where, str):
            self._supervisors.get(where)

    # --- what there is -----------------------------------------------------------------

    async def _whereis(self, name: str) -> list[Any] | None:
        child = self._find(name)
        if child is None or child.is_over:
            return None
        return [child.sid, child.label, name == child.name or name.startswith("/")]

    async def _is_running(self, target: int | str) -> bool:
        member = self._find(target) or self._supervisors.find(target)
        return member is not None and member.state == "running"

    async def _names(self) -> list[str]:
        return self._directory.names()

    async def _ps(self) -> list[dict[str, Any]]:
        return [
            {
                "sid": child.sid,
                "id": child.id,
                "path": child.path,
                "name": child.name,
                "server": child.label,
                "state": child.state,
                "placement": child.placement.name if child.placement else None,
                "os_pid": child.worker.os_pid if child.worker else None,
                "restarts": child.incarnation - 1,
                "dropped": child.dropped,
                "uptime": round(child.uptime(), 3),
            }
            for child in self._directory
        ]

    async def _health(self) -> dict[str, Any]:
        return self._how_it_is().as_plain()

    async def _reload_all(self, limit: Any = None) -> list[Any]:
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise ConfigError(f"expected timeout to be seconds > 0, or None, got {limit!r}")
        done = await self._reload.run(limit)
        return [done.replaced, list(done.kept), list(done.notes)]

    async def _exits(self, name: str | None = None) -> list[dict[str, Any]]:
        return [as_plain(report) for report in self._supervision.exits.of(name)]


def _whole_of(child: Child) -> Member:
    """Return what ends with a server: the whole pool, if it has the address of one."""
    pool = child.parent
    return pool if pool is not None and pool.front is child else child


def _check_limit(limit: Any) -> None:
    if limit is not None and limit != "brutal_kill" and not isinstance(limit, int | float):
        raise ConfigError(f"expected seconds, None or 'brutal_kill' as limit, got {limit!r}")


def _reason(said: Any) -> ExitReason:
    """Return why a server is to stop; a program outside of the node can only say it in words."""
    return said if isinstance(said, get_args(ExitReason)) else Shutdown(str(said))
