"""Faults on order, to try out how your servers and their supervisors take them.

```python
with FaultPlan() as plan:
    orders = plan.inject(child(Orders, path="orders.db"), KillAtMessage(3), FailInit(times=2))
    async with Node(Supervisor(orders)):
        ...  # the third message kills it, and two restarts fail
    assert len(plan.happened()) == 3
```

A fault is plain data. `inject` attaches faults to a child without a change to its code: it returns
another description, of the same server with the same options. Servers without faults do not know
of any of this.

Messages and starts are counted over all incarnations of a child, so a fault that kills happens once
and not again after each restart. Messages are operations, and what `handle_call`, `handle_cast`
and `handle_info` take.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar

from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.reasons import ExitReason
from noex_mp.core.specs import ChildSpec

__all__ = [
    "FailInit",
    "Fault",
    "FaultPlan",
    "FillMailbox",
    "Happened",
    "InjectedError",
    "KillAtMessage",
    "KillBeforeReply",
    "KillInInit",
    "KillInTerminate",
    "LoseLink",
    "Pause",
    "SlowInit",
]

S = TypeVar("S", bound=GenServer[Any, Any, Any])

#: How often a child has started, begun a message, and come to its `terminate`.
_COUNTS: Final = struct.Struct("=QQQ")


class InjectedError(Exception):
    """What `FailInit` raises."""


@dataclass(frozen=True)
class KillAtMessage:
    """Kill the server's process as a message begins, before its handler's first line.

    Attributes:
        at: Which message, from 1.
        signal: The number of the signal.
    """

    at: int
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class KillBeforeReply:
    """Kill the server's process when a message has been handled, before its reply leaves.

    Attributes:
        at: Which message, from 1; one without a reply is handled likewise.
    """

    at: int


@dataclass(frozen=True)
class KillInInit:
    """Kill the server's process in its `init`, before its first line.

    Attributes:
        after: So many starts are good before that. 0 lets the first start fail, and with it
            that of the tree.
        times: How many starts fail then, one after the other.
    """

    after: int = 1
    times: int = 1


@dataclass(frozen=True)
class FailInit:
    """Raise `InjectedError` in the server's `init`.

    Attributes:
        times: How many starts fail, one after the other.
        after: So many starts are good before that; see `KillInInit`.
    """

    times: int = 1
    after: int = 1


@dataclass(frozen=True)
class SlowInit:
    """Block the server's `init` for a while.

    Attributes:
        seconds: How long.
        after: So many starts are quick before that; 0 makes the first one slow.
        times: How many starts are slow then.
    """

    seconds: float
    after: int = 1
    times: int = 1


@dataclass(frozen=True)
class KillInTerminate:
    """Kill the server's process in its `terminate`, before its first line.

    Attributes:
        times: How often.
    """

    times: int = 1


@dataclass(frozen=True)
class Pause:
    """Stop the server's process with SIGSTOP as a message begins, and let it go on later.

    Attributes:
        at: Which message, from 1.
        seconds: How long it stands still.
    """

    at: int
    seconds: float


@dataclass(frozen=True)
class FillMailbox:
    """Let the server take nothing for a while, with room for few messages: its mailbox is full.

    Attributes:
        at: The message that takes so long, from 1.
        seconds: How long.
        max_messages: How many messages there is room for; an option of the child, for good.
    """

    at: int
    seconds: float
    max_messages: int = 1


@dataclass(frozen=True)
class LoseLink:
    """Cut the connection on which a message has come, as it begins.

    Attributes:
        at: Which message, from 1.
    """

    at: int


Fault: TypeAlias = (
    KillAtMessage
    | KillBeforeReply
    | KillInInit
    | FailInit
    | SlowInit
    | KillInTerminate
    | Pause
    | FillMailbox
    | LoseLink
)
"""Any fault."""


@dataclass(frozen=True)
class Happened:
    """A fault that has happened.

    Attributes:
        child: The id of the child.
        fault: Which fault.
        start: Which start of the child it was, from 1.
        message: How many messages the child had begun by then.
    """

    child: str
    fault: Fault
    start: int
    message: int


class FaultPlan:
    """Which children have which faults, and which of these have happened so far.

    Leave it with `with`, or `close` it, when the node has stopped: it keeps its counts in a
    temporary folder.

    ```python
    with FaultPlan(seed=7) as plan:
        tree = Supervisor(plan.inject(child(Orders), *plan.some(3)))
    ```
    """

    def __init__(self, seed: int = 0) -> None:
        """Make a plan without faults.

        Args:
            seed: Of what `some` chooses.
        """
        self._random = random.Random(seed)
        self._folder = Path(tempfile.mkdtemp(prefix="noex-mp-faults-"))
        self._journal = self._folder / "journal"
        self._journal.touch()
        self._injected: list[tuple[str, tuple[Fault, ...]]] = []

    def inject(self, spec: ChildSpec[S], *faults: Fault) -> ChildSpec[S]:
        """Return a description of the same child, in which these faults happen.

        Use it for one child only: what is counted is counted for all that come of it.

        Args:
            spec: The child.
            faults: In the order in which they happen where several come together.
        """
        number = len(self._injected)
        self._injected.append((spec.child_id, faults))
        counts = self._folder / str(number)
        counts.write_bytes(bytes(_COUNTS.size))
        room = [each.max_messages for each in faults if isinstance(each, FillMailbox)]
        injected: Any = _Injected
        return replace(
            spec,
            server=injected,
            args=(spec.server, number, str(self._folder), faults, spec.args, spec.kwargs),
            kwargs={},
            id=spec.child_id,
            max_messages=min([spec.max_messages, *room]),
        )

    def some(self, count: int, *, messages: int = 100) -> tuple[Fault, ...]:
        """Choose faults; the same ones in the same order for the same seed.

        Args:
            count: How many.
            messages: They happen before the child has begun so many messages.
        """
        return tuple(self._one(messages) for _ in range(count))

    def _one(self, messages: int) -> Fault:
        at = self._random.randint(1, messages)
        seconds = round(self._random.uniform(0.01, 0.2), 3)
        after, times = self._random.randint(1, 3), self._random.randint(1, 2)
        kinds: list[Fault] = [
            KillAtMessage(at),
            KillAtMessage(at, signal.SIGSEGV),
            KillBeforeReply(at),
            KillInInit(after, 1),
            FailInit(times, after),
            SlowInit(seconds, after, times),
            KillInTerminate(),
            Pause(at, seconds),
            FillMailbox(at, seconds),
            LoseLink(at),
        ]
        return self._random.choice(kinds)

    def happened(self) -> list[Happened]:
        """Return the faults that have happened, oldest first."""
        found: list[Happened] = []
        for line in self._journal.read_text().splitlines():
            entry: list[int] = json.loads(line)
            number, nth, start, message = entry
            owner, faults = self._injected[number]
            found.append(Happened(owner, faults[nth], start, message))
        return found

    def close(self) -> None:
        """Remove what it has kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# --- in the worker -----------------------------------------------------------------------------


class _Injected(GenServer[Any, Any, Any]):
    """Stands for a server with faults, by a name that workers can import."""

    def __new__(
        cls,
        server: type[GenServer[Any, Any, Any]],
        number: int,
        folder: str,
        faults: Sequence[Fault],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *more: Any,
        **named: Any,
    ) -> Any:
        # Behind ours, what `start_child` is given on top of a template.
        faulty: Any = _with_faults(server, _Faults(number, Path(folder), faults))
        return faulty(*args, *more, **{**kwargs, **named})


class _Faults:
    """The faults of one child: they happen here, in its process."""

    def __init__(self, number: int, folder: Path, faults: Sequence[Fault]) -> None:
        self._number = number
        self._faults = list(enumerate(faults))
        self._journal = folder / "journal"
        with (folder / str(number)).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNTS.size)
        self.waits_for_replies = any(isinstance(each, KillBeforeReply) for each in faults)

    def _count(self, starts: int = 0, messages: int = 0, ends: int = 0) -> tuple[int, int, int]:
        old = _COUNTS.unpack(self._map)
        new = (old[0] + starts, old[1] + messages, old[2] + ends)
        _COUNTS.pack_into(self._map, 0, *new)
        return new

    def start(self) -> None:
        """Let happen what happens at a start."""
        start, _, _ = self._count(starts=1)
        for nth, fault in self._faults:
            match fault:
                case KillInInit(after, times) if after < start <= after + times:
                    self._note(nth)
                    os.kill(os.getpid(), signal.SIGKILL)
                case FailInit(times, after) if after < start <= after + times:
                    self._note(nth)
                    raise InjectedError(f"start {start} fails, as was asked for")
                case SlowInit(seconds, after, times) if after < start <= after + times:
                    self._note(nth)
                    time.sleep(seconds)
                case _:
                    pass

    def message(self) -> int:
        """Let happen what happens as a message begins; return which message it is."""
        _, message, _ = self._count(messages=1)
        for nth, fault in self._faults:
            match fault:
                case KillAtMessage(at, number) if at == message:
                    self._note(nth)
                    os.kill(os.getpid(), number)
                case Pause(at, seconds) if at == message:
                    self._note(nth)
                    _pause(seconds)
                case FillMailbox(at, seconds) if at == message:
                    self._note(nth)
                    time.sleep(seconds)
                case LoseLink(at) if at == message:
                    self._note(nth)
                    _lose_link()
                case _:
                    pass
        return message

    def handled(self, message: int) -> None:
        """Let happen what happens when a message has been handled."""
        for nth, fault in self._faults:
            if isinstance(fault, KillBeforeReply) and fault.at == message:
                self._note(nth)
                os.kill(os.getpid(), signal.SIGKILL)

    def end(self) -> None:
        """Let happen what happens in `terminate`."""
        _, _, ends = self._count(ends=1)
        for nth, fault in self._faults:
            if isinstance(fault, KillInTerminate) and ends <= fault.times:
                self._note(nth)
                os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, nth: int) -> None:
        # Before it happens: afterwards there may be nobody left. One write, so lines stay whole.
        start, message, _ = _COUNTS.unpack(self._map)
        line = json.dumps([self._number, nth, start, message]) + "\n"
        with self._journal.open("ab", buffering=0) as journal:
            journal.write(line.encode())


def _with_faults(
    server: type[GenServer[Any, Any, Any]], faults: _Faults
) -> type[GenServer[Any, Any, Any]]:
    """Return a subclass in which the faults happen, and which is the same otherwise."""

    def init(self: Any) -> Any:
        faults.start()
        return server.init(self)

    def terminate(self: Any, reason: ExitReason) -> Any:
        faults.end()
        return server.terminate(self, reason)

    made: dict[str, Any] = {"init": init, "terminate": terminate}
    for name in ("handle_call", "handle_cast", "handle_info"):
        callback = getattr(server, name)
        if callback is not getattr(GenServer, name):
            made[name] = _counted(callback, faults, wants_sender=False)
    made |= {"__module__": server.__module__, "__qualname__": server.__qualname__}
    subclass: type[GenServer[Any, Any, Any]] = type(server.__name__, (server,), made)
    subclass.__operations__ = {
        name: replace(
            info, function=_counted(info.function, faults, wants_sender=info.wants_sender)
        )
        for name, info in server.__operations__.items()
    }
    return subclass


def _counted(
    function: Callable[..., Any], faults: _Faults, *, wants_sender: bool
) -> Callable[..., Any]:
    """Return a handler that lets happen what happens before and behind this one."""

    @wraps(function)
    def handle(self: Any, *args: Any, **kwargs: Any) -> Any:
        message = faults.message()
        if wants_sender:
            # Its reply may come much later.
            return function(self, *_with_sender(args, faults, message), **kwargs)
        result = function(self, *args, **kwargs)
        if hasattr(result, "__await__"):
            return _awaited(result, faults, message)
        faults.handled(message)
        return result

    return handle


async def _awaited(promise: Any, faults: _Faults, message: int) -> Any:
    result = await promise
    faults.handled(message)
    return result


def _with_sender(args: tuple[Any, ...], faults: _Faults, message: int) -> tuple[Any, ...]:
    """Return the arguments of a handler that replies later; its reply is what it has handled."""
    sender: From[Any] = args[0]
    if not faults.waits_for_replies:
        return args

    def reply(value: Any) -> None:
        faults.handled(message)
        sender.reply(value)

    return From(reply, sender.fail), *args[1:]


def _pause(seconds: float) -> None:
    # Whoever has stopped cannot wake himself. Until the end, should the stop come late.
    script = f"sleep {seconds}; while kill -CONT {os.getpid()}; do sleep 0.02; done"
    waker = subprocess.Popen(["/bin/sh", "-c", script])
    os.kill(os.getpid(), signal.SIGSTOP)
    waker.kill()
    waker.wait()


def _lose_link() -> None:
    # Nothing of it is public, and nobody else has a use for that.
    from noex_mp.worker.activation import current

    activation = current()
    if activation is None or activation.target is None:
        return
    with (
        socket.socket(fileno=os.dup(activation.target.link.fd)) as link,
        contextlib.suppress(OSError),
    ):
        link.shutdown(socket.SHUT_RDWR)
