"""OTP for Python, in which an actor is a real OS process.

```python
from noex_mp import GenServer, call, spawn


class Counter(GenServer):
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @call
    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value


counter = await spawn(Counter, start=10)
await Counter.increment(counter, by=3)  # 13
```
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "noex-mp runs on Linux: its workers are forked, and linked by Unix-domain sockets.\n"
        "On Windows, use it inside WSL."
    )

# First of all: signals may come to the command line while it imports the rest.
from noex_mp.cli import early as _early

if _early.is_the_command():
    _early.listen_from_the_start()

# isort: split
from noex_mp import node as _node
from noex_mp.client import current as _current
from noex_mp.client.api import named, spawn, stop
from noex_mp.client.events import Event, EventKind
from noex_mp.client.timers import Timer, cancel_timer, send_after, send_interval
from noex_mp.core.current_call import CurrentCall, current_call
from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.messages import Call, Cast, Down, Exit, MemoryPressure, Monitor, Timeout
from noex_mp.core.operations import Operation, call, cast
from noex_mp.core.outcomes import Continue, Ignore, NoReply, Outcome, Reply, Stop, TimeoutAfter
from noex_mp.core.reasons import (
    Begun,
    Crash,
    Exited,
    ExitReason,
    ExitReport,
    Hung,
    InitFailed,
    InitTimedOut,
    Killed,
    Linked,
    Normal,
    NoServer,
    OutOfMemory,
    Replaced,
    RootDied,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.core.ref import Ref
from noex_mp.core.specs import (
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    PartitionSupervisor,
    Supervisor,
    child,
)
from noex_mp.errors import (
    AlreadyRegisteredError,
    BadChildSpecError,
    BadConfigError,
    BadEnvelopeError,
    BadRegistrationError,
    BadTargetError,
    CallCycleError,
    CallError,
    CallTimedOutError,
    ChildNotFoundError,
    ChildStateError,
    ConfigError,
    DuplicateChildError,
    FileSizeLimitError,
    FrameTooLargeError,
    InitFailedError,
    InitTimedOutError,
    LimitError,
    LocalProtocolError,
    MailboxFullError,
    MaxChildrenError,
    MaxRestartsExceededError,
    MetadataError,
    NameTimedOutError,
    NoDeadLetterError,
    NodeDownError,
    NoexError,
    NoNodeError,
    NoServerError,
    NotImportableError,
    NotRegisteredError,
    OutOfDescriptorsError,
    PoisonedMessageError,
    PoolDownError,
    PoolStoppedError,
    PreloadError,
    ProtocolError,
    RegistryKeysError,
    ReloadFailedError,
    RemoteError,
    RemoteProtocolError,
    Rung,
    ServerExitedError,
    SharedValueGoneError,
    StartError,
    TaskCancelledError,
    TaskInterrupt,
    TaskTimedOutError,
    TruncatedFrameError,
    UnencodableError,
    UnknownOperationError,
    UnregisteredTypeError,
    WorkerExitedError,
)

if TYPE_CHECKING:
    from noex_mp.client.groups import Group, GroupChange, GroupWatch
    from noex_mp.client.monitors import (
        Watch,
        demonitor,
        link,
        monitor,
        trap_exits,
        unlink,
        watch,
    )
    from noex_mp.client.registry import Registration, Registry, registry, whereis
    from noex_mp.client.shared import shared
    from noex_mp.client.supervisors import (
        ChildCounts,
        ChildInfo,
        SupervisorRef,
        start_supervisor,
        supervisor,
    )
    from noex_mp.core.dead_letters import DeadLetter
    from noex_mp.core.health import Health
    from noex_mp.core.reloaded import Reloaded
    from noex_mp.node.implicit import current_node, shutdown
    from noex_mp.node.node import Node
    from noex_mp.pools.current_task import CurrentTask, current_task
    from noex_mp.pools.executor import ProcessPoolExecutor
    from noex_mp.pools.named_pool import NamedPool
    from noex_mp.pools.pool import Pool, PoolTasks, TaskFuture
    from noex_mp.pools.pool_ref import PoolRef, pool_of
    from noex_mp.pools.requests import PoolStatistics
    from noex_mp.pools.routing import Routing
    from noex_mp.services.application import Application
    from noex_mp.services.dependencies import applications
    from noex_mp.services.running import (
        RunningApplication,
        start_application,
        stop_applications,
    )
    from noex_mp.wire.registration import register_type

__all__ = [
    # errors
    "AlreadyRegisteredError",
    # services.application
    "Application",
    # core.specs
    "Backoff",
    "BadChildSpecError",
    "BadConfigError",
    "BadEnvelopeError",
    "BadRegistrationError",
    "BadTargetError",
    # core.reasons
    "Begun",
    # core.messages
    "Call",
    "CallCycleError",
    "CallError",
    "CallTimedOutError",
    "Cast",
    # client.supervisors
    "ChildCounts",
    "ChildInfo",
    "ChildNotFoundError",
    "ChildSpec",
    "ChildStateError",
    "ConfigError",
    # core.outcomes
    "Continue",
    "Crash",
    # core.current_call
    "CurrentCall",
    # pools.current_task
    "CurrentTask",
    # core.dead_letters
    "DeadLetter",
    "Down",
    "DuplicateChildError",
    "DynamicSupervisor",
    # client.events
    "Event",
    "EventKind",
    "Exit",
    "ExitReason",
    "ExitReport",
    "Exited",
    "FileSizeLimitError",
    "FrameTooLargeError",
    # core.gen_server
    "From",
    "GenServer",
    # client.groups
    "Group",
    "GroupChange",
    "GroupWatch",
    # core.health
    "Health",
    "Hung",
    "Ignore",
    "InitFailed",
    "InitFailedError",
    "InitTimedOut",
    "InitTimedOutError",
    "Killed",
    "LimitError",
    "Linked",
    "LocalProtocolError",
    "MailboxFullError",
    "MaxChildrenError",
    "MaxRestartsExceededError",
    "MemoryPressure",
    "MetadataError",
    "Monitor",
    "NameTimedOutError",
    # pools.named_pool
    "NamedPool",
    "NoDeadLetterError",
    "NoNodeError",
    "NoReply",
    "NoServer",
    "NoServerError",
    # node
    "Node",
    "NodeDownError",
    "NoexError",
    "Normal",
    "NotImportableError",
    "NotRegisteredError",
    # core.operations
    "Operation",
    "OutOfDescriptorsError",
    "OutOfMemory",
    "Outcome",
    "PartitionSupervisor",
    "PoisonedMessageError",
    # pools.pool
    "Pool",
    "PoolDownError",
    # pools.pool_ref
    "PoolRef",
    # pools.requests
    "PoolStatistics",
    "PoolStoppedError",
    # pools.pool
    "PoolTasks",
    "PreloadError",
    # pools.executor
    "ProcessPoolExecutor",
    "ProtocolError",
    # core.ref
    "Ref",
    # client.registry
    "Registration",
    "Registry",
    "RegistryKeysError",
    "ReloadFailedError",
    "Reloaded",
    "RemoteError",
    "RemoteProtocolError",
    "Replaced",
    "Reply",
    "RootDied",
    # pools.routing
    "Routing",
    # errors
    "Rung",
    "RunningApplication",
    "ServerExitedError",
    "SharedValueGoneError",
    "Shutdown",
    "ShutdownTimedOut",
    "StartError",
    "Stop",
    "Supervisor",
    "SupervisorRef",
    "TaskCancelledError",
    # pools.pool
    "TaskFuture",
    "TaskInterrupt",
    "TaskTimedOutError",
    "Timeout",
    "TimeoutAfter",
    # client.timers
    "Timer",
    "TruncatedFrameError",
    "UnencodableError",
    "Unknown",
    "UnknownOperationError",
    "UnregisteredTypeError",
    # client.monitors
    "Watch",
    "WorkerExitedError",
    "applications",
    "call",
    "cancel_timer",
    "cast",
    "child",
    "current_call",
    "current_node",
    "current_task",
    "demonitor",
    "link",
    "monitor",
    # client.api
    "named",
    "pool_of",
    # wire.registration
    "register_type",
    "registry",
    "send_after",
    "send_interval",
    # client.shared
    "shared",
    "shutdown",
    "spawn",
    "start_application",
    "start_supervisor",
    "stop",
    "stop_applications",
    "supervisor",
    "trap_exits",
    "unlink",
    "watch",
    "whereis",
]

__version__ = "0.1.0"

_current.set_implicit(_node.implicit_node)


# Names whose modules are loaded when somebody asks for them: half of the package is needed only
# by who starts a node, and to import it takes longer than all the rest.
_ON_DEMAND = {
    "Application": "noex_mp.services.application",
    "ChildCounts": "noex_mp.client.supervisors",
    "ChildInfo": "noex_mp.client.supervisors",
    "CurrentTask": "noex_mp.pools.current_task",
    "DeadLetter": "noex_mp.core.dead_letters",
    "Group": "noex_mp.client.groups",
    "GroupChange": "noex_mp.client.groups",
    "GroupWatch": "noex_mp.client.groups",
    "Health": "noex_mp.core.health",
    "NamedPool": "noex_mp.pools.named_pool",
    "Node": "noex_mp.node.node",
    "Pool": "noex_mp.pools.pool",
    "PoolRef": "noex_mp.pools.pool_ref",
    "PoolStatistics": "noex_mp.pools.requests",
    "PoolTasks": "noex_mp.pools.pool",
    "ProcessPoolExecutor": "noex_mp.pools.executor",
    "Registration": "noex_mp.client.registry",
    "Registry": "noex_mp.client.registry",
    "Reloaded": "noex_mp.core.reloaded",
    "Routing": "noex_mp.pools.routing",
    "RunningApplication": "noex_mp.services.running",
    "SupervisorRef": "noex_mp.client.supervisors",
    "TaskFuture": "noex_mp.pools.pool",
    "Watch": "noex_mp.client.monitors",
    "applications": "noex_mp.services.dependencies",
    "current_node": "noex_mp.node.implicit",
    "current_task": "noex_mp.pools.current_task",
    "demonitor": "noex_mp.client.monitors",
    "link": "noex_mp.client.monitors",
    "monitor": "noex_mp.client.monitors",
    "pool_of": "noex_mp.pools.pool_ref",
    "register_type": "noex_mp.wire.registration",
    "registry": "noex_mp.client.registry",
    "shared": "noex_mp.client.shared",
    "shutdown": "noex_mp.node.implicit",
    "start_application": "noex_mp.services.running",
    "start_supervisor": "noex_mp.client.supervisors",
    "stop_applications": "noex_mp.services.running",
    "supervisor": "noex_mp.client.supervisors",
    "trap_exits": "noex_mp.client.monitors",
    "unlink": "noex_mp.client.monitors",
    "watch": "noex_mp.client.monitors",
    "whereis": "noex_mp.client.registry",
}


if not TYPE_CHECKING:
    # Hidden from type checkers, which would take every misspelt name for one of these.
    def __getattr__(name: str) -> Any:
        if name not in _ON_DEMAND:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_ON_DEMAND[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
