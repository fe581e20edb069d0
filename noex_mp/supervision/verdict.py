"""What a process is doing, judged by what the kernel and the process itself say of it.

```python
>>> before = Look("R", cpu=1.00)
>>> judge(before, Look("R", cpu=1.02), answer="none")
'c'
>>> judge(Look("S", 1.0, "flock"), Look("S", 1.0, "flock"), answer="unasked")
'blocked'

```

Promise: pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from noex_mp.core.reasons import Verdict

__all__ = ["Answer", "Look", "computes", "is_worth_asking", "judge"]

Answer: TypeAlias = Literal["unasked", "none", "runs", "waits"]
"""What the Python code of a worker says when it is asked: nothing; that it runs; that the server
only awaits something."""

# Where an event loop waits.
_LOOPS_WAIT: Final = frozenset(
    ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "")
)


@dataclass(frozen=True)
class Look:
    """The main thread of a process at one moment.

    Attributes:
        state: As `/proc/PID/stat` has it: R runs, S and D wait, T was stopped, t is traced.
        cpu: How long it has computed so far, in seconds.
        system_call: In which system call it waits, or empty if the kernel does not say.
    """

    state: str
    cpu: float
    system_call: str = ""


def computes(before: Look, after: Look) -> bool:
    """Return whether a thread computed between two looks, or would have, had there been a CPU."""
    return after.state == "R" and (before.state == "R" or after.cpu > before.cpu)


def is_worth_asking(before: Look, after: Look) -> bool:
    """Return whether only its Python code can tell what a process does."""
    if after.state in "Tt":
        return False
    return computes(before, after) or after.system_call in _LOOPS_WAIT


def judge(before: Look, after: Look, answer: Answer) -> Verdict:
    """Return what a process was doing in which a handler took too long."""
    if after.state in "Tt":
        return "stopped"
    if answer == "waits":
        return "waiting"
    if computes(before, after):
        return "python" if answer == "runs" else "c"
    return "blocked" if after.state in "SD" else "unknown"
