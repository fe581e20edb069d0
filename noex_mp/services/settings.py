"""Gives the applications of a tree their configuration: reads the file, sorts the arguments."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from noex_mp import BadConfigError, Supervisor
from noex_mp.services.application import Application, changed, is_application
from noex_mp.services.config import Sources, read_config, sort_arguments

__all__ = ["configured"]

T = TypeVar("T")


def configured(entry: T, file: str | Path | None, arguments: Sequence[str]) -> T:
    """Return a tree whose applications have their configuration; for `noex-mp run`.

    Args:
        entry: The tree, or one application.
        file: A TOML file with a table for each application, or None.
        arguments: As `port=9000`, or `shop.port=9000` where there are several applications.

    Raises:
        BadConfigError: Something is wrong; the text lists every mistake.
    """
    found = {each.name: each.config for each in _applications_in(entry)}
    classes = {name: cls for name, cls in found.items() if isinstance(cls, type)}
    names = list(classes)
    said, mistakes = sort_arguments(arguments, names)
    tables = _tables(file, names, mistakes) if file is not None else {}
    if tables is None:
        # Else all that stands in there would be missed as well.
        raise _wrong(names, mistakes)
    made: dict[str, Any] = {}
    for name, cls in classes.items():
        sources = Sources(tables.get(name, {}), str(file), os.environ, said.get(name, {}))
        try:
            made[name] = read_config(cls, name, sources)
        except BadConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise _wrong(names, mistakes)
    with_them: T = _with_configs(entry, made)
    return with_them


def _wrong(names: Sequence[str], mistakes: Sequence[str]) -> BadConfigError:
    return BadConfigError(" and ".join(names) or "the node", tuple(mistakes))


def _applications_in(entry: Any) -> Iterator[Application[Any]]:
    if is_application(entry):
        yield entry
    elif isinstance(entry, Supervisor):
        for each in entry.children:
            yield from _applications_in(each)


def _with_configs(entry: Any, made: Mapping[str, Any]) -> Any:
    if is_application(entry):
        config = made.get(entry.name)
        return entry if config is None else changed(entry, config=config)
    if isinstance(entry, Supervisor):
        return changed(entry, children=tuple(_with_configs(each, made) for each in entry.children))
    return entry


def _tables(file: str | Path, names: Sequence[str], mistakes: list[str]) -> dict[str, Any] | None:
    """Return what a file says, or None if it cannot be read; note what is wrong with it."""
    import tomllib

    try:
        tables = tomllib.loads(Path(file).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        mistakes.append(f"{file} cannot be read: {error}")
        return None
    for table in tables:
        if table not in names:
            near = difflib.get_close_matches(table, names, n=1)
            there = ", ".join(names) or "none that takes options"
            hint = f"did you mean [{near[0]}]?" if near else f"there are: {there}"
            mistakes.append(f"{file}:{table}: there is no application {table}\n    {hint}")
    return tables
