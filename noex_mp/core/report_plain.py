"""Exit reports as plain values, for JSON and for programs outside of the node.

```python
>>> from noex_mp.core.reasons import ExitReport, Killed
>>> report = ExitReport(
...     server="visits", sid=7, incarnation=1, reason=Killed("SIGKILL"), os_pid=4711, uptime=1.5
... )
>>> as_plain(report)["reason"]
{'type': 'Killed', 'signal': 'SIGKILL'}
>>> from_plain(as_plain(report)) == report
True

```

Promise: pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, get_args

from noex_mp.core.reasons import Begun, ExitReason, ExitReport, Linked, Unknown

__all__ = ["as_plain", "from_plain"]

_REASONS: Final[dict[str, Any]] = {reason.__name__: reason for reason in get_args(ExitReason)}


def as_plain(report: ExitReport) -> dict[str, Any]:
    """Return a report as a dict of plain values."""
    plain = {**asdict(report), "reason": _plain_reason(report.reason)}
    return {**plain, "stderr": list(report.stderr), "restarts": report.restarts}


def _plain_reason(reason: ExitReason) -> dict[str, Any]:
    plain = {"type": type(reason).__name__, **asdict(reason)}
    if isinstance(reason, Linked):
        plain["reason"] = _plain_reason(reason.reason)
    return plain


def from_plain(plain: dict[str, Any]) -> ExitReport:
    """Return the report that `as_plain` made plain values of."""
    values = {key: value for key, value in plain.items() if key != "restarts"}
    values["reason"] = _reason_from(plain["reason"])
    values["stderr"] = tuple(plain["stderr"])
    values["message"] = Begun(**plain["message"]) if plain["message"] else None
    return ExitReport(**values)


def _reason_from(plain: dict[str, Any]) -> ExitReason:
    values = {key: value for key, value in plain.items() if key != "type"}
    if "reason" in values:
        values["reason"] = _reason_from(values["reason"])
    kind = _REASONS.get(plain["type"])
    # What a node of a later version says.
    return Unknown(plain["type"]) if kind is None else kind(**values)
