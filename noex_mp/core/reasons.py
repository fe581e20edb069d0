"""Why a server ended, and the report that says so.

A reason is one of a few small dataclasses, to be taken apart with `match`; `render` is the one
function that puts a reason into words, for logs, errors and the command line alike.

```python
>>> render(Killed("SIGKILL"))
'killed by SIGKILL'
>>> is_abnormal(Shutdown("node is stopping"))
False

```

Promise: plain data and pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

__all__ = [
    "Crash",
    "ExitReason",
    "ExitReport",
    "Exited",
    "InitFailed",
    "InitTimedOut",
    "Killed",
    "Linked",
    "NoServer",
    "Normal",
    "Shutdown",
    "ShutdownTimedOut",
    "Unknown",
    "is_abnormal",
    "render",
]

# A message longer than this would bury the rest of a log line.
_MAX_TEXT: Final = 200


@dataclass(frozen=True)
class Normal:
    """The server had done its work and stopped by itself."""


@dataclass(frozen=True)
class Shutdown:
    """The server was told to stop, or stopped in good order for a reason of its own.

    Attributes:
        detail: Why, for people; may be empty.
    """

    detail: str = ""


@dataclass(frozen=True)
class Crash:
    """An exception left one of the server's callbacks or operations.

    Attributes:
        error: The name of the exception's class.
        message: Its text; may be empty and may have several lines.
    """

    error: str
    message: str


@dataclass(frozen=True)
class Exited:
    """The server's process ended by itself, for example through `os._exit`.

    This is abnormal whatever the code: a server that is done says so with `Stop()`.

    Attributes:
        code: The exit status, 0 to 255.
    """

    code: int


@dataclass(frozen=True)
class Killed:
    """A signal ended the server's process.

    Attributes:
        signal: The signal's name, for example `SIGKILL`.
    """

    signal: str


@dataclass(frozen=True)
class InitFailed:
    """The server's constructor or `init` raised, or its process ended in it.

    Attributes:
        detail: What happened, in a sentence.
    """

    detail: str


@dataclass(frozen=True)
class InitTimedOut:
    """The server's `init` took too long.

    Attributes:
        limit: The time it had, in seconds.
    """

    limit: float


@dataclass(frozen=True)
class ShutdownTimedOut:
    """The server was told to stop, did not, and was ended by force.

    Attributes:
        limit: The time it had, in seconds.
    """

    limit: float


@dataclass(frozen=True)
class Linked:
    """A server ended to which this one was linked.

    Attributes:
        server: The first of the chain to end, for people.
        reason: Why that one ended.
    """

    server: str
    reason: ExitReason


@dataclass(frozen=True)
class NoServer:
    """There is no such server, or no more: what `monitor` and `link` say of it."""


@dataclass(frozen=True)
class Unknown:
    """The server's process is gone, and nobody could learn why.

    Attributes:
        detail: What is missing, for people; may be empty.
    """

    detail: str


ExitReason: TypeAlias = (
    Normal
    | Shutdown
    | Crash
    | Exited
    | Killed
    | InitFailed
    | InitTimedOut
    | ShutdownTimedOut
    | Linked
    | NoServer
    | Unknown
)
"""Any reason for the end of a server."""


def is_abnormal(reason: ExitReason) -> bool:
    """Return whether a transient server is started again after this reason.

    As in OTP, `Normal` and `Shutdown` are normal and everything else is not; what a link has
    ended counts as the first of the chain.
    """
    while isinstance(reason, Linked):
        reason = reason.reason
    return not isinstance(reason, Normal | Shutdown)


def render(reason: ExitReason) -> str:
    """Return the reason in words, on one line, to follow a server's name.

    ```python
    >>> render(Crash("ValueError", "by must not be negative"))
    'crashed with ValueError: by must not be negative'

    ```
    """
    match reason:
        case Normal():
            return "stopped normally"
        case Shutdown(detail):
            return _with("was shut down", detail)
        case Crash(error, message):
            return _with(f"crashed with {error}", message)
        case Exited(code):
            return f"exited with status {code}"
        case Killed(signal):
            return f"killed by {signal}"
        case InitFailed(detail):
            return _with("failed in its init", detail)
        case InitTimedOut(limit):
            return f"did not finish its init within {limit:g} s"
        case ShutdownTimedOut(limit):
            return f"did not stop within {limit:g} s and was killed"
        case Linked(server, first):
            return f"ended with {server}, to which it was linked and which {render(first)}"
        case NoServer():
            return "does not exist"
        case Unknown(detail):
            return _with("ended for an unknown reason", detail)
        case _:
            assert_never(reason)


def _with(what: str, detail: str) -> str:
    """Return `what: detail`, the detail cut to a line of decent length."""
    lines = detail.strip().splitlines()
    if not lines:
        return what
    first = lines[0].rstrip()[:_MAX_TEXT]
    return f"{what}: {first}" if first == detail.strip() else f"{what}: {first} ..."


@dataclass(frozen=True, kw_only=True)
class ExitReport:
    """How one incarnation of a server ended: the same object in errors, events and logs.

    Attributes:
        server: The server's name or id, for people.
        sid: The server's number in its node; kept through restarts.
        incarnation: Which start of the server this was, from 1.
        reason: Why it ended.
        os_pid: The process it lived in, as the operating system counts.
        uptime: How long it ran, in seconds.
        requested: Whether we asked for its end.
        traceback: Where it crashed, as Python prints it; empty if it raised nothing.
        casts_lost: How many casts had not begun and are lost.
        next: What its supervisor does now, for example `restarting`; may be empty.
        shared: Where its process died with a whole placement group: which, how many, and why it
            was ended, if we did it; empty if the server ended alone.
    """

    server: str
    sid: int
    incarnation: int
    reason: ExitReason
    os_pid: int
    uptime: float
    requested: bool = False
    traceback: str = ""
    casts_lost: int = 0
    next: str = ""
    shared: str = ""

    @property
    def summary(self) -> str:
        """Why it ended and what follows, on one line: `killed by SIGKILL; restarting`."""
        why = f"{render(self.reason)} {self.shared}" if self.shared else render(self.reason)
        return f"{why}; {self.next}" if self.next else why
