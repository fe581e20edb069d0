"""Which applications have to start before others, and the tree of all of them.

Promise: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from noex_mp import BadChildSpecError, Supervisor
from noex_mp.services.application import Application, changed

__all__ = ["applications", "in_order"]


def applications(*chosen: Application[Any]) -> Supervisor:
    """Return the tree of some applications and of all that they depend on, in order.

    Each starts after those it depends on, and stops before them. When a permanent one ends, all
    of them stop, and the tree ends; of transient and temporary ones, when the last has ended.

    Raises:
        BadChildSpecError: Some depend on each other in a circle, or on one that is not there; the
            text lists every mistake.
    """
    found = in_order(chosen)
    lasting = [each for each in found if each.restart == "permanent"]
    # None is started again here: what could be restarted has been, within its own tree.
    entries = [
        changed(each, restart="temporary", significant=each in (lasting or found)) for each in found
    ]
    return Supervisor(*entries, auto_shutdown="any_significant" if lasting else "all_significant")


def in_order(chosen: Sequence[Application[Any]]) -> list[Application[Any]]:
    """Return applications and all that they depend on, those that are needed first.

    Raises:
        BadChildSpecError: See `applications`.
    """
    known: dict[str, Application[Any]] = {}
    mistakes: list[str] = []
    _collect(chosen, known, mistakes)
    needs = {name: [_name_of(each) for each in app.depends_on] for name, app in known.items()}
    mistakes += [
        f"application {name} depends on {each!r}, and there is no such application\n"
        f"    write depends_on=({each},) with the application itself, or run it as well"
        for name, others in needs.items()
        for each in others
        if each not in known
    ]
    mistakes += list(_circles({name: set(others) & set(known) for name, others in needs.items()}))
    if mistakes:
        raise BadChildSpecError("\n".join(["the applications do not fit together", *mistakes]))
    return [known[name] for name in TopologicalSorter(needs).static_order()]


def _collect(
    chosen: Sequence[Application[Any] | str],
    known: dict[str, Application[Any]],
    mistakes: list[str],
) -> None:
    for each in chosen:
        if isinstance(each, str):
            continue
        name = each.name
        if known.setdefault(name, each) is not each:
            mistakes.append(f"expected one application called {name!r}, got two")
        else:
            new = [other for other in each.depends_on if _name_of(other) not in known]
            _collect(new, known, mistakes)


def _circles(needs: dict[str, set[str]]) -> Iterator[str]:
    """Yield a sentence for each circle; each is taken apart before the next is looked for."""
    while True:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1]
            # It is given from what is needed to what needs it.
            yield f"applications depend on each other in a circle: {' -> '.join(circle[::-1])}"
            needs[circle[1]].discard(circle[0])
            continue
        return


def _name_of(application: Application[Any] | str) -> str:
    return application if isinstance(application, str) else application.name
