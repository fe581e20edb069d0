"""CPython's own tests of its process pool, with ours in the place of its own.

They are those of `test.test_concurrent_futures`, as the interpreter brings them. One that came
without them (CPython's installer forgot the folder in some releases) borrows those of a newer one
on this machine.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import os
import re
import sys
import sysconfig
import unittest
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tests.conformance.adapted import ERRORS, ProcessPoolExecutor

__all__ = ["NOT_HERE", "PAGE", "SKIPPED", "Suite", "find_suite", "is_listed", "listed"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "executor-conformance.md"

NOT_HERE: Final = "What does not apply"
SKIPPED: Final = "What the suite skips"
"""The sections of the page that list tests."""

_NAME: Final = "test_concurrent_futures"
_PARTS: Final = ("as_completed", "deadlock", "init", "process_pool", "shutdown", "wait")
_ROW: Final = re.compile(r"^\| `(\w+\.\w+)` \| (.+) \|$", re.MULTILINE)
_CONTEXT: Final = re.compile(r"^ProcessPool(Forkserver|Fork|Spawn)")

# These skip themselves where the start method is fork; ours has none, and they apply.
_SKIP_FORK: Final = (
    "test_idle_process_reuse_multiple",
    "test_idle_process_reuse_one",
    "test_max_tasks_early_shutdown",
)

# These do so for the pool of the standard library, which hangs in them.
_SKIP_THEIRS: Final = ("test_hang_gh83386",)

# What a borrowed suite asks of the older `test.support` that it finds.
_NEWER: Final = """
Py_GIL_DISABLED = False
def requires_gil_enabled(reason): return lambda test: test
def check_sanitizer(**kwargs): return False
def skip_if_sanitizer(*args, **kwargs): return lambda test: test
"""


def listed(section: str) -> dict[str, str]:
    """Return the tests that a section of the page lists, each with its reason."""
    _, text = PAGE.read_text().split(f"\n## {section}\n")
    return dict(_ROW.findall(text.partition("\n## ")[0]))


def is_listed(test: unittest.TestCase, rows: Container[str]) -> bool:
    """Return whether a test stands in the page, for its start method or for all of them."""
    owner, method = test.id().rsplit(".", 2)[1:]
    return f"{owner}.{method}" in rows or f"{_CONTEXT.sub('', owner)}.{method}" in rows


@dataclass(frozen=True)
class Suite:
    """Where the tests are.

    Attributes:
        path: The module or the package.
        is_borrowed: Whether they are another interpreter's.
    """

    path: Path
    is_borrowed: bool = False

    def put_on_path(self, folder: Path) -> None:
        """Make it importable, for processes that are yet to start too.

        Args:
            folder: An empty one; a borrowed suite is put there, into a `test` package of this
                interpreter's. It is one of files, as the processes of a pool import it.
        """
        if not self.is_borrowed:
            return
        own = Path(sysconfig.get_path("stdlib")) / "test"
        support = folder / "test" / "support"
        support.mkdir(parents=True)
        for source, target in ((own, support.parent), (own / "support", support)):
            for path in source.iterdir():
                if path.name not in ("__pycache__", "__init__.py", "support"):
                    (target / path.name).symlink_to(path)
        (support.parent / "__init__.py").touch()
        (support.parent / self.path.name).symlink_to(self.path)
        text = (own / "support" / "__init__.py").read_text()
        (support / "__init__.py").write_text(text + _NEWER)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)

    def tests(self) -> Iterator[unittest.TestCase]:
        """Yield the tests of process pools, which have ours."""
        for module in _import_with_ours():
            if hasattr(module, "assert_python_ok"):
                vars(module)["assert_python_ok"] = _with_ours(vars(module)["assert_python_ok"])
            vars(module).update({n: ours for n, ours in ERRORS.items() if hasattr(module, n)})
            for owner in list(vars(module).values()):
                if getattr(owner, "executor_type", None) is ProcessPoolExecutor:
                    yield from _tests_in(owner)


def _tests_in(owner: Any) -> Iterator[unittest.TestCase]:
    # A mixin has the executor too, and is no test.
    if issubclass(owner, unittest.TestCase):
        for name in unittest.defaultTestLoader.getTestCaseNames(owner):
            test = owner(name)
            _let_run(test, name)
            yield test


def _let_run(test: Any, name: str) -> None:
    """Let a test run that skips itself for a reason which ours does not give."""
    if name in _SKIP_FORK:
        get_context = test.get_context
        test.get_context = lambda: _WithoutStartMethod(get_context())
    if name in _SKIP_THEIRS:
        # It asks whether it has the class of `concurrent.futures`, in the place of which is ours.
        test.executor_type = type(ProcessPoolExecutor.__name__, (ProcessPoolExecutor,), {})


class _WithoutStartMethod:
    """A context of multiprocessing, whose start method is none that the suite knows."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def get_start_method(self, allow_none: bool = False) -> str:
        return "noex-mp"


def find_suite() -> Suite | None:
    """Return the suite of this interpreter, else that of a newer one near it; None: none here."""
    ours = Path(sysconfig.get_path("stdlib"))
    if (own := _suite_in(ours)) is not None:
        return Suite(own)
    all_libraries = ours.parents[2].glob("*/lib/python3.*")
    version = sys.version_info[:2]
    newer = sorted((n, path) for path in all_libraries if (n := _version(path)) > version)
    found = (suite for _, path in newer if (suite := _suite_in(path)) is not None)
    return next((Suite(path, is_borrowed=True) for path in found), None)


def _version(library: Path) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", library.name)
    return tuple(map(int, numbers))


def _suite_in(library: Path) -> Path | None:
    found = (library / "test" / name for name in (_NAME, f"{_NAME}.py"))
    return next((path for path in found if path.exists()), None)


def _import_with_ours() -> list[ModuleType]:
    futures: Any = concurrent.futures
    futures.ProcessPoolExecutor = ProcessPoolExecutor
    package = importlib.import_module(f"test.{_NAME}")
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"test.{_NAME}.test_{part}") for part in _PARTS]


def _with_ours(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return what runs a script as the suite does, with our executor in it."""

    def assert_python_ok(*args: str) -> Any:
        # The script of a test that was always skipped forgets the other import.
        imports = "import multiprocessing; from noex_mp import"
        ours = [arg.replace("from concurrent.futures import", imports) for arg in args]
        # Not isolated: it is to find a borrowed suite.
        return run(*ours, PYTHONPATH=os.environ.get("PYTHONPATH", ""), __isolated=False)

    return assert_python_ok
