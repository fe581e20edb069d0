"""The layers: who may import whom, and who does no I/O."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import noex_mp
import noex_mp.errors

PACKAGE = Path(noex_mp.errors.__file__).parent

BELOW_CLIENT = {"transport", "wire", "supervision", "core"}
# A folder may import itself, errors.py, and the folders named here.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "wire": {"core"},
    "supervision": {"core"},
    "transport": {"wire", "supervision", "core"},
    "client": BELOW_CLIENT,
    "node": BELOW_CLIENT | {"client"},
    "worker": BELOW_CLIENT | {"client"},
    "pools": BELOW_CLIENT | {"client", "node"},
    # Only the public names, as a user would.
    "services": {*noex_mp.__all__, "sync"},
    "cli": BELOW_CLIENT | {"client", "node", "worker", "pools", "services"},
    "testing": BELOW_CLIENT | {"client", "node", "worker", "services"},
}
# No socket, no process, no event loop: time and bytes come in as arguments.
IO_MODULES = {
    "asyncio", "fcntl", "mmap", "multiprocessing", "os", "select", "selectors", "signal",
    "socket", "subprocess", "tempfile", "threading", "time", "uvloop",
}  # fmt: skip
SANS_IO: dict[str, set[str]] = {
    "wire": set(),
    "supervision": set(),
    "core": {"asyncio"},  # for the types of awaitables
}
# The one place that reads the time, so that everything else can be given another clock.
READS_THE_TIME = PACKAGE / "core" / "clock.py"
BANNED_NAMES = {"manager", "managers", "utils", "util", "common", "helpers", "misc"}


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Return the full name of every module that `path` imports, also inside functions."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = ["noex_mp", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from noex_mp import core` names the folder in its second half.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def folders_used(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("noex_mp.")}


def test_every_folder_has_its_place_in_the_layers() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_only_what_lies_below_them(folder: str) -> None:
    allowed = MAY_IMPORT[folder] | {folder, "errors"}
    for path in modules(folder):
        used = folders_used(path)
        assert used <= allowed, f"{path.relative_to(PACKAGE)} imports {sorted(used - allowed)}"


def test_errors_import_nothing_of_ours_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    for node in tree.body:  # what stands below `if TYPE_CHECKING` is not at the top level
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("noex_mp"), f"errors.py imports {node.module}"


@pytest.mark.parametrize("folder", SANS_IO)
def test_sans_io_folders_do_no_io(folder: str) -> None:
    for path in modules(folder):
        allowed = SANS_IO[folder].union(["time"] if path == READS_THE_TIME else [])
        used = {name.partition(".")[0] for name in imports(path)} & IO_MODULES - allowed
        assert not used, f"{path.relative_to(PACKAGE)} imports {sorted(used)}"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_no_module_has_a_name_that_says_nothing(folder: str) -> None:
    assert not {path.stem for path in modules(folder)} & BANNED_NAMES


def test_every_module_postpones_its_annotations() -> None:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        code = [n for n in tree.body if not (isinstance(n, ast.Expr))]  # docstring aside
        if code:
            assert "__future__.annotations" in imports(path), f"{path.relative_to(PACKAGE)}"
