"""Every exception of noex-mp, one tree, cut by what the reader can do about it.

```text
NoexError
├── ConfigError              fix your code or your command line
│   ├── BadTargetError           `noex-mp run` got something that is no tree
│   ├── BadChildSpecError        a child or supervisor was described wrongly
│   ├── BadConfigError           the configuration of an application is wrong
│   ├── NotImportableError       a worker process cannot import this class
│   ├── PreloadError             the application could not be preloaded
│   ├── UnknownOperationError    the server has no such operation or message
│   ├── UnencodableError         a value cannot be sent to another process
│   ├── BadRegistrationError     a type cannot be registered like this
│   ├── UnregisteredTypeError    a value came whose type is registered at its sender only
│   ├── MetadataError            what was said with a key cannot be rebuilt here
│   ├── RegistryKeysError        the registry was made with other keys
│   └── NoNodeError              there is no node here to do this
├── StartError               a server did not come up
│   ├── InitFailedError          its `init` raised, or its worker died in it
│   ├── InitTimedOutError        its `init` took too long
│   ├── AlreadyRegisteredError   its name belongs to another server or node
│   ├── NotRegisteredError       nobody has the name
│   │   └── NameTimedOutError        nor has anybody claimed it in time (also a TimeoutError)
│   ├── DuplicateChildError      its id belongs to another child
│   ├── ChildNotFoundError       its supervisor has no such child
│   ├── ChildStateError          it runs, and should not, for what is asked
│   ├── ReloadFailedError        a server did not start with its new code
│   ├── OutOfDescriptorsError    too few file descriptors are free for its worker
│   └── FileSizeLimitError       files may not be as large as its worker needs one
├── CallError                no reply came
│   ├── NoServerError            nobody is there, or not any more
│   ├── CallTimedOutError        no reply within the time limit (also a TimeoutError)
│   ├── ServerExitedError        the server ended while it had the call
│   │   └── WorkerExitedError        the process of a pool ended while it ran the task
│   ├── TaskCancelledError       the task of a pool was stopped
│   │   └── TaskTimedOutError        since it took too long (also a TimeoutError)
│   ├── MailboxFullError         too many messages wait for the server
│   ├── CallCycleError           servers wait for each other in a circle
│   ├── PoisonedMessageError     its server ended in the middle of it, again and again
│   ├── NoDeadLetterError        the message is not kept (any more), to be sent again
│   ├── NodeDownError            the node has stopped
│   ├── PoolStoppedError         the pool has been stopped
│   ├── PoolDownError            a pool can run no task any more (also a BrokenExecutor)
│   ├── SharedValueGoneError     a shared value came too late: nobody has kept it
│   └── RemoteError              the server raised something that cannot be rebuilt here
├── LimitError
│   ├── MaxChildrenError         a supervisor has as many children as it may have
│   └── MaxRestartsExceededError a supervisor gave up
└── ProtocolError            two processes do not understand each other
    ├── LocalProtocolError       our own bug: please report it
    └── RemoteProtocolError      what the peer sent cannot be understood
        ├── FrameTooLargeError       a length above the limit
        ├── TruncatedFrameError      the peer closed in the middle of a frame
        └── BadEnvelopeError         a frame that is no envelope
```

One is no error, and no `Exception`, so that the code of a task does not catch it by mistake:
`TaskInterrupt`, which is raised in a task that is to stop.

An error holds data; `__str__` makes the sentence: what was expected, what came, what to do.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from noex_mp.core.reasons import ExitReport

__all__ = [
    "AlreadyRegisteredError",
    "BadChildSpecError",
    "BadConfigError",
    "BadEnvelopeError",
    "BadRegistrationError",
    "BadTargetError",
    "CallCycleError",
    "CallError",
    "CallTimedOutError",
    "ChildNotFoundError",
    "ChildStateError",
    "ConfigError",
    "DuplicateChildError",
    "FileSizeLimitError",
    "FrameTooLargeError",
    "InitFailedError",
    "InitTimedOutError",
    "LimitError",
    "LocalProtocolError",
    "MailboxFullError",
    "MaxChildrenError",
    "MaxRestartsExceededError",
    "MetadataError",
    "NameTimedOutError",
    "NoDeadLetterError",
    "NoNodeError",
    "NoServerError",
    "NodeDownError",
    "NoexError",
    "NotImportableError",
    "NotRegisteredError",
    "OutOfDescriptorsError",
    "PoisonedMessageError",
    "PoolDownError",
    "PoolStoppedError",
    "PreloadError",
    "ProtocolError",
    "RegistryKeysError",
    "ReloadFailedError",
    "RemoteError",
    "RemoteProtocolError",
    "ServerExitedError",
    "SharedValueGoneError",
    "StartError",
    "TaskCancelledError",
    "TaskInterrupt",
    "TaskTimedOutError",
    "TruncatedFrameError",
    "UnencodableError",
    "UnknownOperationError",
    "UnregisteredTypeError",
    "WorkerExitedError",
]


class NoexError(Exception):
    """The root of every error that noex-mp raises on purpose."""


class ConfigError(NoexError):
    """Your code or your command line needs a change."""


class BadTargetError(ConfigError):
    """`noex-mp run` was given something that is no supervision tree."""


class BadChildSpecError(ConfigError):
    """A child or supervisor was described wrongly; the text lists every mistake."""


class BadConfigError(ConfigError):
    """The configuration of an application is wrong; the text lists every mistake.

    Attributes:
        application: Whose it is.
        mistakes: What is wrong: each with its place, what was expected and what came.
    """

    def __init__(self, application: str, mistakes: tuple[str, ...]) -> None:
        super().__init__(application, mistakes)
        self.application = application
        self.mistakes = mistakes

    def __str__(self) -> str:
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        return "\n".join([f"the configuration of {self.application} has {count}", *self.mistakes])


class NotImportableError(ConfigError):
    """A worker process could not import this class by name.

    Attributes:
        path: Where the class says it lives, as `module:qualname`.
        is_by_value: It would have to be sent with its code, and pickle is switched off.
        problem: What the script that it stands in has raised when it was imported; or nothing.
    """

    def __init__(self, path: str, *, is_by_value: bool = False, problem: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.is_by_value = is_by_value
        self.problem = problem

    def __str__(self) -> str:
        module, _, qualname = self.path.partition(":")
        name = qualname.rpartition(".")[2]
        if self.is_by_value:
            return (
                f"a worker process cannot import {self.path}, and Node(pickle=False) sends no "
                f"code.\n"
                f"Move {name} to the top level of a module that can be imported, for example "
                f"servers.py."
            )
        if self.problem:
            return (
                f"a worker process that imports your script gets no further: {self.problem}\n"
                f'Put what the script does under: if __name__ == "__main__":'
            )
        if module == "__main__":
            return (
                f"a worker process that imports your script finds no {name} in it.\n"
                f"Define {name} at the script's top level, above: "
                f'if __name__ == "__main__":'
            )
        return (
            f"a worker process cannot import {self.path}\n"
            f"Check that module {module} is on sys.path and defines {name} at its top level."
        )


class PreloadError(ConfigError):
    """The application could not be preloaded into the process that forks the workers.

    The text holds the traceback of the failed import, or names the thread, loop or socket
    that the import left behind.
    """


class UnknownOperationError(ConfigError):
    """The server has no such operation, or no callback for such a message.

    Attributes:
        server: The name of the server's class.
        operation: What was asked for.
        known: The operations there are.
    """

    def __init__(self, server: str, operation: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(server, operation, known)
        self.server = server
        self.operation = operation
        self.known = tuple(known)

    def __str__(self) -> str:
        there_are = ", ".join(self.known) or "none"
        return f"{self.server} has no {self.operation}; its operations: {there_are}"


class UnencodableError(ConfigError):
    """A value cannot be sent to another process.

    Attributes:
        path: Where the value stands, for example `args[0]['rows'][3]`.
        value: What stands there, shortened, for example `<generator>`.
        reason: Why it cannot be sent, or an empty string.
    """

    def __init__(self, path: str, value: str, reason: str = "") -> None:
        super().__init__(path, value, reason)
        self.path = path
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"cannot be sent to another process: {self.path}: {self.value}{why}"


class BadRegistrationError(ConfigError):
    """`register_type` cannot do what it was asked for.

    Attributes:
        path: The type, as `module:qualname`.
        reason: Why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} cannot be registered: {self.reason}"


class UnregisteredTypeError(ConfigError):
    """A value came whose type is registered in its sender's process, but not in this one.

    Attributes:
        path: The type, as `module:qualname`.
        home: The module that has registered it there.
    """

    def __init__(self, path: str, home: str) -> None:
        super().__init__(path, home)
        self.path = path
        self.home = home

    def __str__(self) -> str:
        return (
            f"a {self.path} came, which module {self.home} has registered in its sender's "
            f"process, but which is not registered in this one\n"
            f"Call register_type at the top level of a module that every process can import."
        )


class RegistryKeysError(ConfigError):
    """A registry is there with other keys than this handle says.

    Attributes:
        registry: The registry.
        expected: What the handle says: `"unique"` or `"duplicate"`.
        keys: What the registry has.
    """

    def __init__(self, registry: str, expected: str, keys: str) -> None:
        super().__init__(registry, expected, keys)
        self.registry = registry
        self.expected = expected
        self.keys = keys

    def __str__(self) -> str:
        return (
            f"registry {self.registry!r} has {self.keys} keys, and this handle says {self.expected}"
            f"\nWrite Registry({self.registry!r}, keys={self.keys!r}) everywhere."
        )


class NoNodeError(ConfigError):
    """There is no node in this process, thread or loop that could do this."""


class StartError(NoexError):
    """A server did not come up."""


class InitFailedError(StartError):
    """A server's `init` (or constructor) raised, or its worker died in it.

    What was raised is the `__cause__`, with the remote traceback as its note.

    Attributes:
        server: The child's id.
        reason: What happened, in a sentence.
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.server} did not start: {self.reason}"


class InitTimedOutError(StartError):
    """A server's `init` took longer than its `init_timeout`.

    Attributes:
        server: The child's id.
        init_timeout: The limit, in seconds.
    """

    def __init__(self, server: str, init_timeout: float) -> None:
        super().__init__(server, init_timeout)
        self.server = server
        self.init_timeout = init_timeout

    def __str__(self) -> str:
        return (
            f"{self.server} did not finish its init within {self.init_timeout:g} s\n"
            f"Move slow work out of init (return Continue(...) and do it in handle_continue), "
            f"or raise init_timeout."
        )


class AlreadyRegisteredError(StartError):
    """The name belongs to another server, or to another node.

    Attributes:
        name: The name, or the key.
        holder: What has it: `"server"`, `"node"`, or `"itself"` for who wants to have it twice.
        registry: The registry; empty for the node's own, and for nodes.
    """

    def __init__(self, name: str, holder: str = "server", registry: str = "") -> None:
        super().__init__(name, holder, registry)
        self.name = name
        self.holder = holder
        self.registry = registry

    def __str__(self) -> str:
        where = f" in registry {self.registry!r}" if self.registry else ""
        if self.holder == "itself":
            return f"it is registered under {self.name!r}{where} already"
        return (
            f"the name {self.name!r} is taken{where} by a running {self.holder}; "
            f"stop it or choose another"
        )


class NotRegisteredError(StartError):
    """Nobody is registered under the name.

    Attributes:
        name: The name, or the key.
        registry: The registry; empty for the node's own.
        near: Names that there are and that look like it.
    """

    def __init__(self, name: str, registry: str = "", near: tuple[str, ...] = ()) -> None:
        super().__init__(name, registry, near)
        self.name = name
        self.registry = registry
        self.near = tuple(near)

    def __str__(self) -> str:
        where = f" in registry {self.registry!r}" if self.registry else ""
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        return f"nobody is registered as {self.name!r}{where}{hint}"


class MetadataError(ConfigError):
    """What was said with an entry of a registry cannot be rebuilt in this process.

    Its class is gone, say, or cannot be imported here. What went wrong is the cause.

    Attributes:
        key: The key of the entry.
        registry: The registry; empty for the node's own.
        problem: What went wrong, in words.
    """

    def __init__(self, key: str, registry: str, problem: str) -> None:
        super().__init__(key, registry, problem)
        self.key = key
        self.registry = registry
        self.problem = problem

    def __str__(self) -> str:
        where = f" in registry {self.registry!r}" if self.registry else ""
        return (
            f"the metadata of {self.key!r}{where} cannot be rebuilt in this process: "
            f"{self.problem}\n"
            f"Keep plain values there, or classes that every process can import."
        )


class NameTimedOutError(NotRegisteredError, TimeoutError):
    """Nobody has registered under the name in time.

    Attributes:
        timeout: How long it was waited for, in seconds.
    """

    def __init__(
        self, name: str, registry: str = "", near: tuple[str, ...] = (), timeout: float = 0.0
    ) -> None:
        super().__init__(name, registry, near)
        self.args = (name, registry, near, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"{super().__str__()}, also after {self.timeout:g} s"


class OutOfDescriptorsError(StartError):
    """The process that keeps the servers alive has too few file descriptors left for another.

    Some are kept back, so that the servers there are can still be restarted and called. When
    servers are stopped, others can be started again.

    Attributes:
        server: The child's id.
        open_fds: How many descriptors the process has open.
        limit: How many it may have (`ulimit -n`).
        needed: How many have to be free to start a server.
    """

    def __init__(self, server: str, open_fds: int, limit: int, needed: int) -> None:
        super().__init__(server, open_fds, limit, needed)
        self.server = server
        self.open_fds = open_fds
        self.limit = limit
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"{self.server} did not start: {self.open_fds} of {self.limit} file descriptors are "
            f"in use, and {self.needed} must be free, for its worker and for restarts\n"
            f"Raise the limit (ulimit -n, or LimitNOFILE= of the service), or stop servers that "
            f"are not needed."
        )


class FileSizeLimitError(StartError):
    """Files may not be large enough here for what a node keeps in memory for its workers.

    That is never on a disk, but counts as a file.

    Attributes:
        server: The child's id, or the node.
        limit: How large a file may be, in bytes (`ulimit -f`).
        needed: How large it would have to be, in bytes: with each worker more.
    """

    def __init__(self, server: str, limit: int, needed: int) -> None:
        super().__init__(server, limit, needed)
        self.server = server
        self.limit = limit
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"{self.server} did not start: files may have {self.limit:,} bytes here, and a file in "
            f"memory with {self.needed:,} is needed, for what workers leave when they die\n"
            f"Raise the limit (ulimit -f unlimited, or LimitFSIZE= of the service)."
        )


class ReloadFailedError(StartError):
    """A server did not start with its new code, so the reload was given up.

    What its `init` raised is the `__cause__`.

    Attributes:
        server: The server's name or id.
        reason: What happened, in a sentence.
        went_back: Whether all servers have the old code again. If not, the process that had it has
            died: servers that were replaced keep the new code, and the supervisor of this one has
            it in hand, as after any other failed restart.
    """

    def __init__(self, server: str, reason: str, went_back: bool) -> None:
        super().__init__(server, reason, went_back)
        self.server = server
        self.reason = reason
        self.went_back = went_back

    def __str__(self) -> str:
        now = "All servers have the old code again: repair the new one, and reload once more."
        if not self.went_back:
            now = "There was no way back: the process that had the old code has died."
        return f"{self.server} did not start with its new code: {self.reason}\n{now}"


class DuplicateChildError(StartError):
    """The supervisor has a child with this id.

    Attributes:
        id: The id.
        state: The state of that child, for example `running`, or `stopped`.
    """

    def __init__(self, id: str, state: str) -> None:
        super().__init__(id, state)
        self.id = id
        self.state = state

    def __str__(self) -> str:
        text = f"there is a child with the id {self.id!r}, which is {self.state}\n"
        if self.state == "stopped":
            return f"{text}Write restart_child({self.id!r}) to start it again."
        return f"{text}Give the new one another: .options(id=...)."


class ChildNotFoundError(StartError):
    """The supervisor has no such child.

    Attributes:
        supervisor: What the supervisor is called.
        child: What was asked for: an id, or the number of a server.
        ids: The ids that there are.
    """

    def __init__(self, supervisor: str, child: str | int, ids: tuple[str, ...] = ()) -> None:
        super().__init__(supervisor, child, ids)
        self.supervisor = supervisor
        self.child = child
        self.ids = ids

    def __str__(self) -> str:
        there = ", ".join(map(repr, self.ids[:20])) or "none"
        return f"supervisor {self.supervisor} has no child {self.child!r}; there are: {there}"


class ChildStateError(StartError):
    """A child is to be started again or forgotten, and has not ended.

    Attributes:
        child: Its id.
        state: Its state, for example `running`.
    """

    def __init__(self, child: str, state: str) -> None:
        super().__init__(child, state)
        self.child = child
        self.state = state

    def __str__(self) -> str:
        return f"child {self.child!r} is {self.state}; terminate_child({self.child!r}) comes first"


class CallError(NoexError):
    """No reply came."""


class NoServerError(CallError):
    """Nobody is at this address, or not any more.

    Attributes:
        server: The name or the address that was called.
        report: How the server ended, or None where nothing is known of it.
        state: Of a supervisor that is there, and starts nothing just now: `starting`, for example.
    """

    def __init__(self, server: str, report: ExitReport | None = None, state: str = "") -> None:
        super().__init__(server, report, state)
        self.server = server
        self.report = report
        self.state = state

    def __str__(self) -> str:
        if self.state:
            return (
                f"supervisor {self.server} is {self.state}: until it is running it starts nothing "
                f"else\n"
                f"Ask again when it is, or another supervisor."
            )
        if self.report is None:
            return f"there is no server {self.server}"
        return f"there is no server {self.server} any more: {self.report.summary}"


class CallTimedOutError(CallError, TimeoutError):
    """No reply came within the time limit, or no room was found for a cast.

    Attributes:
        operation: What was called, for example `Counter.increment`.
        timeout: The limit, in seconds.
        is_cast: Whether it was a cast: it was not sent then.
    """

    def __init__(self, operation: str, timeout: float, is_cast: bool = False) -> None:
        super().__init__(operation, timeout, is_cast)
        self.operation = operation
        self.timeout = timeout
        self.is_cast = is_cast

    def __str__(self) -> str:
        if self.is_cast:
            what = "was not sent: there was no room for it"
        else:
            what = "did not reply"
        return f"{self.operation} {what} within {self.timeout:g} s"


class ServerExitedError(CallError):
    """The server ended while it had the call.

    If it ended because its handler raised, what was raised is the `__cause__`.

    Attributes:
        started: Whether the call had begun; its effects are unknown then.
        report: How the server ended.
    """

    def __init__(self, report: ExitReport, *, started: bool = True) -> None:
        super().__init__(report)
        self.report = report
        self.started = started

    def __str__(self) -> str:
        begun = "in the middle of the call" if self.started else "before the call began"
        return f"{self.report.server} ended {begun}: {self.report.summary}"


class WorkerExitedError(ServerExitedError):
    """The process of a pool ended while it ran the task.

    Attributes:
        report: How it ended.
    """

    def __str__(self) -> str:
        return f"the process that ran the task has ended: {self.report.summary}"


Rung: TypeAlias = Literal["dropped", "token", "cancel", "exception", "kill"]
"""How far one had to go to stop a task of a pool.

- `dropped`: It had not begun, and never did.
- `token`: It ended after `current_task().cancelled` had become true.
- `cancel`: Its `async` function was cancelled.
- `exception`: `TaskInterrupt` was raised in it.
- `kill`: Its process was killed.
"""

_STOPPED: dict[Rung, str] = {
    "dropped": "before it began",
    "token": "and ended after its token had said so",
    "cancel": "by cancelling its async function",
    "exception": "by an exception in its main thread",
    "kill": "by killing its process",
}


class TaskCancelledError(CallError):
    """The task of a pool was stopped.

    Attributes:
        rung: How far one had to go for that: `"dropped"`, `"token"`, `"cancel"`, `"exception"` or
            `"kill"`. After a kill the `WorkerExitedError` is the `__cause__`, with the report.
    """

    def __init__(self, rung: Rung) -> None:
        super().__init__(rung)
        self.rung: Rung = rung

    def __str__(self) -> str:
        return f"the task was stopped {_STOPPED[self.rung]}"


class TaskTimedOutError(TaskCancelledError, TimeoutError):
    """The task of a pool ran longer than its `timeout`, and was stopped.

    Attributes:
        rung: How far one had to go for that.
        limit: The time it had, in seconds.
    """

    def __init__(self, rung: Rung, limit: float) -> None:
        super().__init__(rung)
        self.args = (rung, limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the task ran longer than {self.limit:g} s, and was stopped {_STOPPED[self.rung]}"


class TaskInterrupt(BaseException):
    """Is raised in the task of a pool that is to stop.

    Code that has to tidy up does so in `finally`, or catches it and raises it again. Whoever does
    not let go is killed.
    """


class MailboxFullError(CallError):
    """Too much waits for the server already; there is no room for this message.

    Attributes:
        server: The server's name.
        waiting: How many messages wait already; where each sender has a share of the mailbox, so
            many of this one.
        max_messages: How many messages may wait.
        max_bytes: How many bytes they may have together.
    """

    def __init__(self, server: str, waiting: int, max_messages: int, max_bytes: int) -> None:
        super().__init__(server, waiting, max_messages, max_bytes)
        self.server = server
        self.waiting = waiting
        self.max_messages = max_messages
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return (
            f"{self.waiting} messages wait for {self.server} already; there is no room for one "
            f"more (at most {self.max_messages}, of {self.max_bytes} bytes together)\n"
            f"Await what you send, or give the server a larger max_messages or max_bytes."
        )


class CallCycleError(CallError):
    """Servers call each other in a circle, and each waits for the next.

    Attributes:
        path: The servers of the circle; the one that called first comes last again.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        circle = " -> ".join(self.path)
        return (
            f"these servers wait for each other: {circle}\n"
            f"Let one of them cast, or call from a task of its own and reply later."
        )


class PoisonedMessageError(CallError):
    """The server ended in the middle of this call each time that it got it; it gets it no more.

    For operations marked `@call(idempotent=True)`. If the last end was an exception of the handler,
    that is the `__cause__`.

    Attributes:
        operation: What was called, for example `Parser.parse`.
        server: The name or id of the server.
        deliveries: How often the call had begun.
        reports: How the server ended each time, the last ten of them.
        letter: The number of the dead letter that keeps the message, or None where the node had no
            time left to keep it.
    """

    def __init__(
        self,
        operation: str,
        server: str,
        deliveries: int,
        reports: tuple[ExitReport, ...] = (),
        letter: int | None = None,
    ) -> None:
        super().__init__(operation, server, deliveries, reports, letter)
        self.operation = operation
        self.server = server
        self.deliveries = deliveries
        self.reports = reports
        self.letter = letter

    def __str__(self) -> str:
        times = "time" if self.deliveries == 1 else "times"
        text = f"{self.server} ended {self.deliveries} {times} in the middle of {self.operation}"
        last = f"; the last: {self.server} {self.reports[-1].summary}" if self.reports else ""
        if self.letter is None:
            return f"{text}, which is not sent again{last}"
        return (
            f"{text}, which is a dead letter now{last}\nLook at it: noex-mp dlq show {self.letter}"
        )


class NoDeadLetterError(CallError):
    """There is no such dead letter, or its message was not kept.

    Attributes:
        letter: Its number.
        reason: Why it cannot be sent again.
    """

    def __init__(self, letter: int, reason: str) -> None:
        super().__init__(letter, reason)
        self.letter = letter
        self.reason = reason

    def __str__(self) -> str:
        return f"dead letter {self.letter} cannot be sent again: {self.reason}"


class NodeDownError(CallError):
    """The node has stopped, or its root process has died.

    Attributes:
        text: What happened, in a sentence.
        report: How the server ended that was called, where the root has died (`RootDied`); None
            where the node was stopped, or it was no server that was asked.
    """

    def __init__(self, text: str, report: ExitReport | None = None) -> None:
        super().__init__(text, report)
        self.text = text
        self.report = report

    def __str__(self) -> str:
        return self.text


class PoolStoppedError(CallError):
    """The pool has been stopped, and runs nothing any more."""

    def __str__(self) -> str:
        return "the pool has been stopped"


class PoolDownError(CallError, BrokenExecutor):
    """A pool can run no task any more: its processes do not start, or its node has stopped.

    The death of a process is no reason: another takes its place, and the pool goes on. What is, is
    the `__cause__`.

    Attributes:
        reason: What happened, in a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the pool can run no tasks: {self.reason}"


class SharedValueGoneError(CallError):
    """A shared value is gone that a message names: its sender and everybody else has let it go.

    A sender keeps what it sends until the receiver has it. So this concerns messages that nobody
    waits for any more, and those of a process that died more than 5 s before they were read.
    """

    def __str__(self) -> str:
        return (
            "a shared value is gone: whoever has sent it gave it up, or died, long before it was "
            "read here; share it again"
        )


class RemoteError(CallError):
    """The server raised an exception that cannot be rebuilt in this process.

    Attributes:
        type_name: The exception's class, as `module:qualname`.
        message: Its text.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class LimitError(NoexError):
    """A configured limit was reached."""


class MaxChildrenError(LimitError):
    """A supervisor has as many children as it may have.

    Attributes:
        supervisor: What the supervisor is called.
        max_children: How many these are.
    """

    def __init__(self, supervisor: str, max_children: int) -> None:
        super().__init__(supervisor, max_children)
        self.supervisor = supervisor
        self.max_children = max_children

    def __str__(self) -> str:
        return f"supervisor {self.supervisor} has {self.max_children} children, as many as it may"


class MaxRestartsExceededError(LimitError):
    """A supervisor gave up: its children died more often than it allows.

    Attributes:
        supervisor: The supervisor's id.
        max_restarts: How many restarts are allowed ...
        max_seconds: ... within how many seconds.
        report: The exit that was one too many.
        budget: Which restarts: `"restarts"`, or `"failed_inits"`, `"ooms"` or `"hangs"`, which have
            budgets of their own.
    """

    def __init__(
        self,
        supervisor: str,
        max_restarts: int,
        max_seconds: float,
        report: ExitReport | None,
        budget: str = "restarts",
    ) -> None:
        super().__init__(supervisor, max_restarts, max_seconds, report, budget)
        self.budget = budget
        self.supervisor = supervisor
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self.report = report

    def __str__(self) -> str:
        last = f"; the last: {self.report.server} {self.report.summary}" if self.report else ""
        return f"supervisor {self.supervisor} gave up: {self.excess}{last}"

    @property
    def excess(self) -> str:
        """What was too much, in words."""
        after = {
            "failed_inits": " that failed in init",
            "ooms": " for want of memory",
            "hangs": " after a handler that hung",
        }.get(self.budget, "")
        restarts = f"{self.max_restarts} restarts{after}"
        return f"more than {restarts} in {self.max_seconds:g} s"


class ProtocolError(NoexError):
    """Two processes do not understand each other."""


class LocalProtocolError(ProtocolError):
    """Our own side broke the protocol. This is a bug in noex-mp: please report it."""


class RemoteProtocolError(ProtocolError):
    """What the peer sent cannot be understood.

    Attributes:
        peer: Who sent it.
    """

    def __init__(self, peer: str, problem: str) -> None:
        super().__init__(peer, problem)
        self.peer = peer
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.peer} sent {self.problem}"


class FrameTooLargeError(RemoteProtocolError):
    """The peer announced or sent more than the limit allows."""


class TruncatedFrameError(RemoteProtocolError):
    """The peer closed the connection in the middle of a frame."""


class BadEnvelopeError(RemoteProtocolError):
    """The peer sent a frame that is no envelope."""
