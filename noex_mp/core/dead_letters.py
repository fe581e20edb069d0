"""Messages that were given up: each time that a server got one, it ended in the middle of it.

```python
>>> from noex_mp.core.reasons import ExitReport, Killed
>>> report = ExitReport(
...     server="parser", sid=7, incarnation=1, reason=Killed("SIGSEGV"), os_pid=4711, uptime=1.5
... )
>>> letter = DeadLetter(
...     id=1, server="parser", ref=Ref("node", 7), name="parser", operation="parse", size=312,
...     time=0.0, deliveries=3, reports=(report,), is_kept=True,
... )
>>> letter.summary
'parse ended parser 3 times; the last: parser killed by SIGSEGV'
>>> letter_from_plain(letter_as_plain(letter), "node") == letter
True

```

Promise: plain data and pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from noex_mp.core.reasons import ExitReport
from noex_mp.core.ref import Ref
from noex_mp.core.report_plain import as_plain, from_plain

__all__ = ["MAX_BYTES", "DeadLetter", "letter_as_plain", "letter_from_plain"]

MAX_BYTES: Final = 32 * 2**20
"""How large all dead letters of a node may be together, in bytes."""


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that is not delivered any more, since its server ended of it again and again.

    ```python
    for letter in await node.dead_letters():
        print(letter.text)
        reply = await node.retry(letter)
    ```

    Attributes:
        id: Its number in its node.
        server: The server's name or id, for people.
        ref: Where it was sent to, and goes when it is sent again.
        name: The server's name, or None.
        operation: What it asks for.
        size: How many bytes it has on its way.
        time: When it was given up, in seconds since the epoch.
        deliveries: How often it had begun.
        reports: How its server ended each time: the last ten, the newest last.
        is_kept: Whether the message itself is kept, so that it can be sent again; False if it was
            too large.
    """

    id: int
    server: str
    ref: Ref[Any]
    name: str | None
    operation: str
    size: int
    time: float
    deliveries: int
    reports: tuple[ExitReport, ...]
    is_kept: bool

    @property
    def arguments(self) -> str:
        """What it was sent with, cut, as the last report has it; empty unless the node debugs."""
        last = self.reports[-1].message if self.reports else None
        return last.arguments if last is not None and last.operation == self.operation else ""

    @property
    def summary(self) -> str:
        """What happened, on one line."""
        times = f"{self.deliveries} time{'' if self.deliveries == 1 else 's'}"
        last = self.reports[-1] if self.reports else None
        more = f"; the last: {last.server} {last.summary}" if last is not None else ""
        return f"{self.operation} ended {self.server} {times}{more}"

    @property
    def text(self) -> str:
        """All of it for people; the reports as `ExitReport.text` has them."""
        facts = "\n".join(_facts(self))
        return "\n\n".join([facts, *(report.text for report in self.reports)])


def _facts(letter: DeadLetter) -> Iterator[str]:
    # Imported here: most processes never need it.
    from datetime import datetime

    when = datetime.fromtimestamp(letter.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    kept = "kept, and can be sent again" if letter.is_kept else "not kept: it is too large"
    yield f"dead letter {letter.id}: {letter.summary}"
    yield f"  when:     {when}"
    yield f"  message:  {letter.operation}({letter.arguments}), {letter.size} bytes, {kept}"


def letter_as_plain(letter: DeadLetter, *, in_full: bool = True) -> dict[str, Any]:
    """Return a letter as a dict of plain values; its reports only if it is to be in full."""
    plain: dict[str, Any] = {
        "id": letter.id,
        "server": letter.server,
        "sid": letter.ref.sid,
        "label": letter.ref.label,
        "name": letter.name,
        "operation": letter.operation,
        "size": letter.size,
        "time": letter.time,
        "deliveries": letter.deliveries,
        "is_kept": letter.is_kept,
        "summary": letter.summary,
    }
    return {**plain, "reports": [as_plain(r) for r in letter.reports]} if in_full else plain


def letter_from_plain(plain: dict[str, Any], node: str) -> DeadLetter:
    """Return the letter that `letter_as_plain` made plain values of.

    Args:
        plain: These values.
        node: The id of the node that keeps it.
    """
    values = {key: plain[key] for key in _AS_THEY_ARE}
    return DeadLetter(
        ref=Ref(node, plain["sid"], label=plain["label"]),
        reports=tuple(from_plain(report) for report in plain["reports"]),
        **values,
    )


_AS_THEY_ARE: Final = (
    "id",
    "server",
    "name",
    "operation",
    "size",
    "time",
    "deliveries",
    "is_kept",
)
