"""Import the application once, before any worker is forked, and audit what that left behind.

A fork copies one thread only. A lock that another thread held stays locked for ever, an event
loop's epoll is shared with the parent, and so is a connection. So the zygote refuses to go on
when an import left a thread, a loop or a socket, and names the module.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import io
import os
import stat
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from noex_mp.core.reasons import Crash, Normal, Shutdown
from noex_mp.core.thread_variables import THREAD_VARIABLES
from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS, open_fds
from noex_mp.wire import classes
from noex_mp.wire.classes import MAIN_IN_WORKERS
from noex_mp.wire.codec import Encoder
from noex_mp.wire.zygote_packets import ZygoteConfig

# What every worker needs, and what the standard library would import at the first use only.
_RUNTIME: Final = (
    "asyncio",
    "ctypes",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "faulthandler",
    "linecache",
    "logging",
    "msgpack",
    "noex_mp.wire.unencodable",
    "noex_mp.worker.bootstrap",
    "random",
    "resource",
    "selectors",
    "tokenize",
    "traceback",
    "_strptime",
)
_RUNTIME_IF_THERE: Final = ("uvloop",)

# Those of libraries that see to them at a fork, by handlers of `pthread_atfork`. jemalloc, which
# pyarrow has, holds its locks over the fork, and forgets the thread in the child: there it gives
# memory back while it allocates.
_SURVIVE: Final = frozenset(("jemalloc_bg_thd",))

# A thread that was joined is gone from Python a moment before it is gone from the kernel.
_PATIENCE: Final = 0.25  # seconds


class PreloadRefusedError(Exception):
    """An import left something that a fork does not survive; the text names both."""


@dataclass(frozen=True)
class _Footprint:
    """What this process holds that a fork would break."""

    threads: frozenset[int]  # native ids
    sockets: frozenset[str]
    loops: frozenset[str]


def set_thread_variables() -> list[str]:
    """Keep numerical libraries at one thread, and return the variables that were set for it.

    What the user has set stays; the audit says so when it leads to threads.
    """
    missing = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    return missing


def import_runtime(entry: str) -> Callable[..., object]:
    """Import what every worker needs, and return the function that `entry` names."""
    for name in _RUNTIME:
        importlib.import_module(name)
    for name in _RUNTIME_IF_THERE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # How each of these travels is found out once, at some cost, and not by each worker at its end.
    encoder = Encoder()
    for reason in (Normal(), Shutdown(), Crash("", "")):
        encoder.pack(reason)
    module, _, function = entry.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(module), function)
    return found


def import_application(config: ZygoteConfig, report: Callable[[str], None]) -> None:
    """Import the modules of the application, and its script, and audit after each.

    Args:
        config: Names them.
        report: Is told each name before its import begins.

    Raises:
        PreloadRefusedError: A module left a thread, a loop or a socket.
    """
    before, allowed = _footprint(), frozenset(config.allow_native_threads)
    for name in config.preload:
        report(name)
        importlib.import_module(name)
        _audit(name, before, allowed)
    if config.main_later:
        import_script(config)
        return
    if config.main_path is None and config.main_name is None:
        return
    shown = config.main_name or config.main_path or ""
    report(shown)
    import_script(config)
    _audit(shown, before, allowed)


def take_over(config: ZygoteConfig) -> None:
    """Make this process look like the root."""
    os.environ.pop("PYTHONPATH", None)
    if "PYTHONPATH" in config.environ:
        os.environ["PYTHONPATH"] = config.environ["PYTHONPATH"]
    # A folder may be gone since: then this process stays where it was executed, which is where the
    # root is. One that is nowhere itself can say no more either.
    with contextlib.suppress(OSError):
        os.chdir(config.cwd)
    sys.path[:] = config.sys_path
    sys.argv[:] = config.argv


# --- the user's script --------------------------------------------------------------------------


def import_script(config: ZygoteConfig) -> None:
    """Run the user's script as a module of another name, so that its main guard holds.

    Without a script it does nothing, and one that is for later waits until it is asked for.
    """
    if config.main_path is None and config.main_name is None:
        return
    if config.main_later:
        classes.import_main_on_demand(partial(_run_script, config))
    else:
        _run_script(config)


def _run_script(config: ZygoteConfig) -> None:
    path = config.main_path
    module, code = _main_by_name(config.main_name) if path is None else _main_by_path(path)
    # Registered before it runs: a dataclass looks its own module up. Not by runpy: it copies the
    # variables when it is done, and the functions would go on with the originals.
    before = sys.modules["__main__"]
    sys.modules[MAIN_IN_WORKERS] = sys.modules["__main__"] = module
    was_preloading = fds.preloading()
    fds.set_preloading(value=True)
    try:
        exec(code, vars(module))
    except BaseException:
        # As an import does it: half a module must not pass for a whole one.
        del sys.modules[MAIN_IN_WORKERS]
        sys.modules["__main__"] = before
        raise
    finally:
        fds.set_preloading(value=was_preloading)


def _main_by_path(path: str) -> tuple[types.ModuleType, types.CodeType]:
    module = types.ModuleType(MAIN_IN_WORKERS)
    module.__file__ = path
    # A node that is started in a worker finds by it how its own workers import the script.
    module.__loader__ = importlib.machinery.SourceFileLoader(MAIN_IN_WORKERS, path)
    with io.open_code(path) as file:
        return module, compile(file.read(), path, "exec")


def _main_by_name(name: str | None) -> tuple[types.ModuleType, types.CodeType]:
    spec = importlib.util.find_spec(name or "")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no module {name!r} on the import path", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__name__ = MAIN_IN_WORKERS
    # What `importlib.abc.InspectLoader` promises; its import brings twenty more modules.
    get_code: Callable[[str], types.CodeType | None] | None = getattr(spec.loader, "get_code", None)
    if get_code is None:
        raise ImportError(f"the module {name!r} has no code that could be run again", name=name)
    code = get_code(spec.name)
    if code is None:
        raise ImportError(f"the module {name!r} is not written in Python", name=name)
    return module, code


# --- the audit ----------------------------------------------------------------------------------


def _footprint() -> _Footprint:
    if sys.platform != "linux" or FALLBACKS:
        return _plain_footprint()
    links = list(_open_links())
    return _Footprint(
        threads=frozenset(int(name) for name in os.listdir("/proc/self/task")),
        sockets=frozenset(link for _, link in links if link.startswith("socket:")),
        loops=frozenset(fd for fd, link in links if link == "anon_inode:[eventpoll]"),
    )


def _plain_footprint() -> _Footprint:
    import psutil

    sockets = [fd for fd in open_fds() if stat.S_ISSOCK(os.fstat(fd).st_mode)]
    loops = [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, asyncio.AbstractEventLoop) and not thing.is_closed()
    ]
    return _Footprint(
        threads=frozenset(thread.id for thread in psutil.Process().threads()),
        sockets=frozenset(map(str, sockets)),
        loops=frozenset(str(id(loop)) for loop in loops),
    )


def _open_links() -> Iterator[tuple[str, str]]:
    for fd in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            yield fd, os.readlink(f"/proc/self/fd/{fd}")


def _audit(name: str, before: _Footprint, allowed: frozenset[str]) -> None:
    problem = _find_problem(name, before, allowed)
    deadline = time.monotonic() + _PATIENCE
    while problem is not None and time.monotonic() < deadline:
        # A socket that nobody refers to any more may be part of a cycle.
        gc.collect()
        time.sleep(0.005)
        problem = _find_problem(name, before, allowed)
    if problem is None:
        return
    raise PreloadRefusedError(
        f"{name} {problem}\n"
        f"Workers are forked from the process that preloads {name}, and this does not survive "
        f"a fork.\nDo it in a server's init instead of at import time, or take {name} out of "
        f"the preload."
    )


def _find_problem(name: str, before: _Footprint, allowed: frozenset[str]) -> str | None:
    now = _footprint()
    return (
        _python_threads()
        or _loops_and_sockets(before, now)
        or (None if name in allowed else _native_threads(now.threads - before.threads, allowed))
    )


def _python_threads() -> str | None:
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            return f"left a thread running: {thread.name!r}{_target_of(thread)}"
    if len(sys._current_frames()) > 1:  # pyright: ignore[reportPrivateUsage]
        return "left a thread running (not one of the threading module's)"
    return None


def _target_of(thread: threading.Thread) -> str:
    target: object = getattr(thread, "_target", None)
    if target is None:
        return ""
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", "?")
    return f" in {module}:{name}"


def _loops_and_sockets(before: _Footprint, now: _Footprint) -> str | None:
    if asyncio._get_running_loop() is not None:
        return "left an event loop running"
    if now.loops - before.loops:
        return "left an event loop open"
    if new := len(now.sockets - before.sockets):
        return f"left {new} open socket{'s' if new > 1 else ''}"
    return None


def _native_threads(new: frozenset[int], allowed: frozenset[str]) -> str | None:
    names = sorted({name for name in map(_thread_name, new) if name} - allowed - _SURVIVE)
    if not names:
        return None
    return (
        f"left native threads running: {', '.join(names)} (if a fork does not harm them, list "
        f"them, or the module, in allow_native_threads)"
    )


def _thread_name(native_id: int) -> str:
    if sys.platform != "linux" or FALLBACKS:
        return f"number {native_id}"
    try:
        return Path(f"/proc/self/task/{native_id}/comm").read_text().strip()
    except OSError:
        return ""
