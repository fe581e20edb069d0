"""How far many tasks are: a function of the user's, or a bar in the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from noex_mp.errors import ConfigError

__all__ = ["Progress", "reporting"]

Progress = bool | Callable[[int, int | None], object]
"""True shows a bar; a function is called with how many tasks are done, and of how many or None."""


@contextlib.contextmanager
def reporting(
    progress: Progress, what: str, total: int | None
) -> Generator[Callable[[int], object] | None]:
    """Yield what is told how many tasks are done, if anybody wants to know.

    Raises:
        ConfigError: A bar was asked for, and rich is not installed.
    """
    if progress is False:
        yield None
    elif progress is True:
        with _bar(what, total) as report:
            yield report
    else:
        yield lambda done: progress(done, total)


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Generator[Callable[[int], object]]:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ImportError:
        raise ConfigError(
            "progress=True draws its bar with rich, which is not installed\n"
            "Install noex-mp[progress], or pass a function: progress=lambda done, total: ..."
        ) from None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # What counts goes to standard output; a bar must not stand in it.
    from rich.console import Console

    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda done: bars.update(task, completed=done)
