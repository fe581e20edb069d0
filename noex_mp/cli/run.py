"""`noex-mp run app:tree`: a node in the foreground, as a service manager would start it.

The node's control plane is this program: its event loop is the main loop. Signals are the only
way in, the log is the only way out, and the exit status says how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from noex_mp.cli import statuses
from noex_mp.cli.load import Loaded, load_anew
from noex_mp.cli.log import FORMATS, Level, Log
from noex_mp.cli.notify import Notifier
from noex_mp.cli.probes import Probes
from noex_mp.cli.reloading import Reloading, what_has_changed, write_no_bytecode
from noex_mp.cli.signals import StopRequests, run_with_signals
from noex_mp.cli.streams import standard_streams
from noex_mp.cli.target import Target, load_tree, look_in_this_folder
from noex_mp.cli.watch import Watch
from noex_mp.cli.words import amount
from noex_mp.core.health import Health
from noex_mp.core.reasons import Shutdown
from noex_mp.errors import (
    AlreadyRegisteredError,
    ConfigError,
    NodeDownError,
    PreloadError,
    StartError,
)
from noex_mp.node import shortages
from noex_mp.node.config import RootConfig
from noex_mp.node.control_socket import check_name
from noex_mp.node.node import Node
from noex_mp.node.root import Root
from noex_mp.node.sources import own_files
from noex_mp.transport import fds
from noex_mp.transport.loops import new_event_loop

__all__ = ["run"]

# How long threads and functions of the application may hold up the end of this process after
# everything has stopped, in seconds. A service manager waits for it.
LINGER: Final = 0.6

# After a fault of our own nobody knows what state the servers are in; they get this long to end,
# in seconds, and the end of this process ends the rest.
FAULT_PATIENCE: Final = 2.0


def run(
    target_text: str,
    *,
    name: str | None,
    log_format: str,
    log_level: Level,
    debug: bool = False,
    health: str | None = None,
    config: str | None = None,
    options: Sequence[str] = (),
    reload: bool = False,
) -> int:
    """Run a tree until it is told to stop, or gives up; return the exit status.

    Args:
        target_text: The tree, as `module:name`.
        name: The node's name; None makes one from the module's.
        log_format: `text` or `json`.
        log_level: What is less important is not logged.
        debug: Whether exit reports hold arguments, also where the tree's own node says nothing.
        health: Where to answer HTTP probes, as `8080` or `127.0.0.1:8080`; None for nowhere.
        config: The TOML file with the configuration of the tree's applications.
        options: Options of theirs, as `port=9000` or `shop.port=9000`.
        reload: Whether the tree is started anew when a file of the application changes.
    """
    fds.open_standard_fds()
    notifier = Notifier.from_environment()
    try:
        target = Target(target_text)
        look_in_this_folder()
        if reload:
            write_no_bytecode()
        node, tree = load_tree(target, config, options)
        names = _names_for(target, node, name)
        # Before all that takes its time: whoever asks meanwhile waits, and is not refused.
        probes = Probes(health) if health is not None else None
    except ConfigError as error:
        _say_what_to_change(error, name or target_text, log_format)
        return statuses.USAGE
    log = Log(names[0], standard_streams(), FORMATS[log_format], log_level)
    status = statuses.SOFTWARE
    try:
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        run = _Run(
            loop,
            target,
            partial(load_anew, target, config, options),
            node,
            tree,
            names,
            log,
            notifier,
            probes,
            debug=debug,
            reload=reload,
        )
        status = run_with_signals(loop, run.serve(), run.signals.receive)
    except Exception:
        log.say("error", "fault", _FAULT, traceback=traceback.format_exc())
    finally:
        node.close_listeners()
        notifier.close()
        if probes is not None:
            probes.close()
        log.close()
    _end_soon(status, log.node, log_format)
    return status


def _end_soon(status: int, node: str, log_format: str) -> None:
    """Let the process be gone soon, whatever the application's modules have left running in it."""

    def end() -> None:
        time.sleep(LINGER)
        main = threading.main_thread()
        left = [each.name for each in threading.enumerate() if each != main and not each.daemon]
        what = f"the threads {', '.join(left)}" if left else "a function that atexit runs"
        what = f"ends without waiting for {what}"
        try:
            _say_without_log("warning", "cut_off", what, node, log_format)
        finally:
            os._exit(status)

    # Where there is no room for one more thread, it ends when it ends.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=end, name="noex-mp end", daemon=True).start()


def _say_what_to_change(error: ConfigError, node: str, log_format: str) -> None:
    if log_format == "text":
        print(f"noex-mp: {error}", file=sys.stderr)
        return
    # Whoever asked for JSON reads nothing else. No log is open yet: no node has a name.
    _say_without_log("error", "not_started", str(error), node, log_format)


def _say_without_log(level: Level, event: str, what: str, node: str, log_format: str) -> None:
    log = Log(node, standard_streams(), FORMATS[log_format], level)
    log.say(level, event, what)
    log.close()


_AT_ONCE: Final = "SIGINT (Ctrl-C) stops at once"

_FAULT: Final = (
    "noex-mp failed by a fault of its own, not of your servers; please report it, with this:"
)


def _names_for(target: Target, node: Node, name: str | None) -> Sequence[str]:
    """Return the names that the node may have, the best first.

    Raises:
        ConfigError: What was asked for can be no name.
    """
    given = name if name is not None else node.name
    if given is None:
        return (target.node_name, f"{target.node_name}-{os.getpid()}")
    check_name(given, f"--name {target.node_name}")
    return (given,)


# --- the life of the node -----------------------------------------------------------------------


class _Run:
    """One run of a tree, from its start to its end.

    Attributes:
        signals: Takes the signals that end it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        load: Callable[[], Awaitable[Loaded]],
        node: Node,
        tree: dict[str, Any] | None,
        names: Sequence[str],
        log: Log,
        notifier: Notifier,
        probes: Probes | None,
        *,
        debug: bool,
        reload: bool,
    ) -> None:
        self._loop = loop
        self._target = target
        self._load = load
        preload = node.root_config(sink=log.on_output).preload
        self._watch = Watch(own_files(preload)) if reload else None
        self._reloading: asyncio.Task[None] | None = None
        self._notifier = notifier
        self._probes = probes
        self.signals = StopRequests(
            loop, self._stop_in_order, self._stop_at_once, self._say_that_it_stops
        )
        self._node = node
        self._tree = tree
        self._debug = debug
        self._names = names
        self._name = names[0]
        self._log = log
        self._root: Root | None = None
        self._in_a_hurry = False
        self._name_is_taken = False
        self._asked: asyncio.Future[None] = loop.create_future()
        self._fault: asyncio.Future[None] = loop.create_future()

    async def serve(self) -> int:
        """Start the tree, wait for a reason to stop, stop it; return the exit status."""
        self._loop.set_exception_handler(self._on_loop_error)
        self._notifier.begin(self._loop)
        self._notifier.tell("STATUS=starting")
        if self._probes is not None:
            await self._probes.begin(self._health)
            self._say("info", "probes", f"answers probes at port {self._probes.port}")
        starting = self._loop.create_task(self._start())
        await self._first_of(starting)
        status = statuses.OK
        if starting.done() and not self._asked.done():
            status = self._status_of_start(starting.exception())
            if status == statuses.OK:
                status = await self._wait()
        await self._stop(starting)
        if self._probes is not None:
            await self._probes.end()
        if self._fault.done():
            return statuses.SOFTWARE
        if not self._name_is_taken:
            self._say("info", "node_stopped", f"node {self._name} has stopped")
        return status

    async def _first_of(self, *others: asyncio.Future[Any]) -> None:
        await asyncio.wait((self._asked, self._fault, *others), return_when=asyncio.FIRST_COMPLETED)

    def _say(self, level: Level, event: str, what: str, trace: str = "", **facts: Any) -> None:
        self._log.say(level, event, what, traceback=trace, **facts)

    def _say_the_end(
        self, event: str, what: str, status: int, trace: str = "", **facts: Any
    ) -> None:
        self._say("error", event, what, trace, **facts)
        self._notifier.tell("STOPPING=1", f"STATUS={what}", f"EXIT_STATUS={status}")

    def _health(self) -> Health:
        if self._root is None:
            return Health(False, "starting", {}, ("the node is starting",))
        return self._root.health()

    # --- start -------------------------------------------------------------------------

    async def _start(self) -> None:
        root = await self._start_root()
        if self._tree is not None:
            await root.start_tree(self._tree)
        servers = amount(len(root.servers()), "server")
        os_pid = os.getpid()
        self._say(
            "info",
            "node_started",
            f"node {self._name} is up with {servers} (os pid {os_pid})",
            os_pid=os_pid,
        )
        self._notifier.tell("READY=1", f"STATUS=up with {servers}")
        if self._watch is not None:
            reloading = Reloading(self._target, self._load, root, self._watch, self._say)
            self._reloading = self._loop.create_task(reloading.run())
            self._reloading.add_done_callback(self._reloading_ended)

    async def _start_root(self) -> Root:
        for name in self._names:
            if self._asked.done():
                raise NodeDownError("the node was told to stop before it had started")
            self._name = self._log.node = name
            with shortages.told("the node", fds_needed=shortages.FDS_OF_A_NODE):
                self._root = root = Root(self._loop, self._config(name))
            try:
                with shortages.told("the node", fds_needed=shortages.FDS_OF_A_NODE):
                    await root.start()
            except (FileExistsError, AlreadyRegisteredError):
                await root.stop()
            else:
                return root
        # What is said of the node of this name from here on is said of the other one.
        self._name_is_taken = True
        raise ConfigError(
            f"there is a running node called {self._name!r}\n"
            f"Choose another name with --name, or stop that one."
        )

    def _config(self, name: str) -> RootConfig:
        log = self._log
        config = self._node.root_config(
            name=name, listener=log.on_event, wants=log.wants, sink=log.on_output
        )
        config = replace(config, look_ahead=self._look_ahead)
        return replace(config, debug=True) if self._debug else config

    async def _look_ahead(self, tree: dict[str, Any]) -> list[str]:
        """Load the target anew, before servers are replaced; say what will not be applied."""
        loaded = await self._load()
        if loaded.error:
            raise PreloadError(loaded.error)
        return what_has_changed(tree, loaded.tree)

    def _reloading_ended(self, reloading: asyncio.Task[None]) -> None:
        if not reloading.cancelled() and (error := reloading.exception()) is not None:
            self._fail(error)

    def _status_of_start(self, error: BaseException | None) -> int:
        match error:
            case None:
                return statuses.OK
            case PreloadError():
                what = "the application could not be preloaded"
                self._say_the_end("not_started", what, statuses.USAGE, str(error))
                return statuses.USAGE
            case ConfigError():
                self._say_the_end("not_started", str(error), statuses.USAGE)
                return statuses.USAGE
            case StartError():
                trace = _in_full(error.__cause__)
                self._say_the_end("not_started", str(error), statuses.FAILED, trace)
                return statuses.FAILED
            case _:
                self._fail(error)
                return statuses.SOFTWARE

    # --- run ---------------------------------------------------------------------------

    async def _wait(self) -> int:
        assert self._root is not None
        ended = self._root.ended
        await self._first_of(ended)
        if not ended.done():
            return statuses.OK
        report = ended.result()
        if report is None:
            self._say("info", "tree_ended", "the tree has done its work")
            return statuses.OK
        error = self._root.give_up_error(report)
        server = report.server
        self._say_the_end("gave_up", str(error), statuses.FAILED, server=server)
        return statuses.FAILED

    def _stop_in_order(self, number: signal.Signals) -> None:
        self._asked.set_result(None)
        self._notifier.tell("STOPPING=1", f"STATUS=stopping on {number.name}")
        if number == signal.SIGINT and self._log.on_terminal:
            self._log.say_at_terminal("stopping", "stopping; Ctrl-C again to stop at once")
        else:
            what = f"stopping on {number.name}; {_AT_ONCE}"
            self._say("info", "stopping", what, signal=number.name)

    def _stop_at_once(self, number: signal.Signals) -> None:
        if self._root is None:
            return
        self._root.hurry()
        if not self._in_a_hurry:
            self._in_a_hurry = True
            self._say("info", "stopping", "stopping at once", signal=number.name)

    def _say_that_it_stops(self, number: signal.Signals) -> None:
        what = f"{number.name} changes nothing: the node is stopping; {_AT_ONCE}"
        self._say("info", "stopping", what, signal=number.name)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if context["message"] == "a supervisor failed":
            self._fail(error)
            return
        what = f"{context['message']}; this is a fault of noex-mp, please report it"
        self._say("error", "internal_error", what, _in_full(error))

    def _fail(self, error: BaseException | None) -> None:
        self._say_the_end("fault", _FAULT, statuses.SOFTWARE, _in_full(error))
        if not self._fault.done():
            self._fault.set_result(None)

    # --- stop --------------------------------------------------------------------------

    async def _stop(self, starting: asyncio.Task[None]) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        tasks = {starting}
        if self._root is not None:
            tasks.add(self._loop.create_task(self._root.stop(self._reason())))
        ending = self._loop.create_task(asyncio.wait(tasks))
        await asyncio.wait((ending, self._fault), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done() and self._root is not None:
            self._root.hurry()
            await asyncio.wait((ending,), timeout=FAULT_PATIENCE)
        for task in tasks:
            # How the start failed has been said, or is of no interest any more.
            error = task.exception() if task.done() else None
            if error is not None and task is not starting:
                self._fail(error)

    def _reason(self) -> Shutdown:
        asked = self._asked.done() or self._fault.done()
        return Shutdown("the node is stopping" if asked else "the tree gave up")


def _in_full(error: BaseException | None) -> str:
    return "" if error is None else "".join(traceback.format_exception(error))
