"""Worker processes, as the root sees them: started by the zygote, watched until they are dead.

Three things may tell of a death, in any order: the control link ends, the pidfd becomes
readable, the zygote reports the wait status. The zygote's report is what counts, since only it
knows the status. If the zygote is dead itself, the pidfd has to do, and the kernel may know the
status; where there are no pidfds, the end of the control link has to do. Whatever comes first,
`Worker.dead` is set once, after the control link was read to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from noex_mp.core.black_box import TEXT_OFFSET
from noex_mp.core.reasons import OutOfMemory
from noex_mp.errors import OutOfDescriptorsError, ProtocolError, TruncatedFrameError
from noex_mp.node import shortages
from noex_mp.node.black_box import BlackBox, LastWords, Slot
from noex_mp.node.connection import Connection
from noex_mp.node.leases import Leases
from noex_mp.node.oom import OomCounter
from noex_mp.node.output import Output, Sink
from noex_mp.node.zygote import Zygote
from noex_mp.transport import fds, lifeline
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.shared_file import NO_SPAN
from noex_mp.wire import cut_over
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import LEAVE

if TYPE_CHECKING:
    from noex_mp.node.children import Child
    from noex_mp.node.memory import MemoryWatch

__all__ = ["Worker", "Workers"]

# How long the pidfd waits for the zygote's report, in seconds.
STATUS_PATIENCE: Final = 1.0
# How long between two looks whether an orphan was reaped, in seconds: at first, and twice as long
# each time. In all a quarter of a second: some process 1 never reaps, and a restart waits for this.
_FIRST_LOOK: Final = 0.002
_LAST_LOOK: Final = 0.128


# While a worker starts it takes 8 descriptors of the root's: 4 that it keeps (control link, output,
# errors, pidfd), 3 for its ends of these, and one as the pidfd moves. As many stay free, for the
# restart of a server (which gets back what the last worker had) and for the command line.
FDS_TO_START: Final = 8
FDS_KEPT_BACK: Final = 8
# A link to it takes one more of whoever calls it, for good. (While it is made it takes two more for
# a moment; that is kept back as well.)


class Worker:
    """One worker process.

    Attributes:
        number: Its number in the node; never used again.
        span: Its part of the shared memory.
        label: The server it was started for, for people.
        os_pid: The process id.
        connection: Its control link, and what it is as a client.
        links: Who is at the other end of each data link, by link id.
        lost_links: Who was when it died, and by which link.
        generation: Which of the node's code it has; see `zygotes`.
        dead: Done when the process is dead: its wait status, or None if nobody knows.
        is_gone: Its process has ended, and perhaps we do not know its status yet.
        is_reaped: The zygote has told its status: the number may be another's by now.
        problem: What was wrong with what it said, if that is why it was killed.
        shared: It belongs to a placement group, and outlives the single server.
        residents: The servers whose current incarnations are in it, by sid.
        condemned: Why it is killed although nothing is wrong with most of its servers; or empty.
        leaving: It was told that its last server is gone.
        toll: How many servers died with it.
        counted_in: The budgets for restarts in which its death was counted.
        oom_kills: How many the kernel had killed for want of memory: when it started, and from its
            death on, since then.
        ran_out_of_memory: The kernel has killed it for that.
        ran_over: It had more memory than it may have, and was killed for that.
        watch: Whoever watches its memory, if that is limited.
        was_asked: It was asked for its stack: it is about to be killed.
        rss: What memory it had when we were about to kill it, in bytes, if we were.
        peak_rss: The most that it or a child of it had, in bytes, if anybody knows.
    """

    def __init__(
        self,
        number: int,
        label: str,
        slot: Slot,
        loop: asyncio.AbstractEventLoop,
        *,
        shared: bool = False,
        span: int = NO_SPAN,
    ) -> None:
        self.number = number
        self.span = span
        self.shared = shared
        self.residents: dict[int, Child] = {}
        self.condemned = ""
        self.leaving = False
        self.toll = 0
        self.counted_in: set[object] = set()
        self.oom_kills = 0
        self.ran_out_of_memory = False
        self.ran_over: OutOfMemory | None = None
        self.watch: MemoryWatch | None = None
        self.was_asked = False
        self.rss: int | None = None
        self.peak_rss: int | None = None
        self.label = label
        self.slot = slot
        self.os_pid = 0
        self.pidfd = fds.NO_FD
        self.connection = Connection(label, trusted=True, worker=self)
        self.links: dict[int, Connection] = {}
        self.lost_links: dict[Connection, int] = {}
        self.outputs: list[Output] = []
        self.zygote: Zygote | None = None
        self.generation = 0
        self.dead: asyncio.Future[int | None] = loop.create_future()
        self.last_words = LastWords({}, {}, "", {}, {})
        self.problem: Exception | None = None
        self.is_gone = False
        self.is_reaped = False

    @property
    def alive(self) -> bool:
        """Whether it is not known to be dead."""
        return not self.dead.done()

    @property
    def takes_servers(self) -> bool:
        """Whether another server may be started in it."""
        return self.alive and not self.is_gone and not self.condemned and not self.leaving

    @property
    def last_errors(self) -> tuple[str, ...]:
        """The last lines that it wrote to standard error."""
        kept = [output.last for output in self.outputs if output.stream == "stderr"]
        return tuple(line.decode(errors="replace").rstrip() for last in kept for line in last)

    def retire(self) -> None:
        """Let it end by itself: its last server is gone."""
        self.leaving = True
        self.connection.post([LEAVE])

    @property
    def can_be_signalled(self) -> bool:
        """Whether its process is there, as far as we know."""
        return bool(self.os_pid) and self.alive and not self.is_reaped

    def signal_group(self, number: int) -> None:
        """Send a signal to the worker and what it started, if it is not dead."""
        if self.can_be_signalled:
            fds.send_signal_to_group(self.pidfd, self.os_pid, number)


class Workers:
    """All worker processes of a node."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        black_box: BlackBox,
        names_fd: int,
        leases: Leases,
        sink: Sink,
        fields: dict[str, Any],
        on_frame: Callable[[Connection, list[Any]], None],
        on_dead: Callable[[Worker], None],
        linked: Callable[[], set[Worker]] | None,
        allow_pickle: bool,
    ) -> None:
        """Make the register of a node's workers.

        Args:
            names_fd: A descriptor that reads the log of names; each worker gets a copy.
            leases: The shared memory.
            linked: Returns those that the program around the root has links to; None if it makes
                no calls.
        """
        self._loop = loop
        self._linked = linked
        self._black_box = black_box
        self._names_fd = names_fd
        self._leases = leases
        self._sink = sink
        self._fields = fields
        self._on_frame = on_frame
        self._on_dead = on_dead
        self._allow_pickle = allow_pickle
        # One for all: with its buffer of 256 KiB it holds itself, so each death would leave one
        # behind until somebody collects garbage.
        self._encoder = Encoder(allow_pickle=allow_pickle)
        self._oom_counter = OomCounter()
        self._next = 0
        # How many have been asked for and have no pidfd yet.
        self._coming = 0
        self._by_os_pid: dict[int, Worker] = {}
        self._known: set[Worker] = set()

    def all(self) -> list[Worker]:
        """Return the workers that are not known to be dead."""
        return list(self._by_os_pid.values())

    def of(self, zygote: Zygote) -> list[Worker]:
        """Return the workers of one zygote that are not known to be dead, or are being born."""
        return [worker for worker in self._known if worker.zygote is zygote]

    async def start(
        self,
        zygote: Zygote,
        *,
        label: str,
        shared: bool = False,
        process: dict[str, Any] | None = None,
        needs_room: bool = False,
    ) -> Worker:
        """Start a worker and return it; it has not said hello yet.

        Args:
            zygote: Forks it.
            label: Whose it is, for people.
            shared: It is a placement group's.
            process: What its process is to be like. Only what concerns its start is read here.
            needs_room: It does not get the descriptors that are kept back for restarts.

        Raises:
            OutOfDescriptorsError: Too few descriptors are free.
            FileSizeLimitError: Files may not be large enough.
            OSError: The machine has no process, memory or descriptor left for it.
        """
        if needs_room:
            self._check_room(label)
        self._next += 1
        with shortages.told(label, workers=len(self._known) + 1):
            slot = self._black_box.take()
        span = self._leases.new_span()
        worker = Worker(self._next, label, slot, self._loop, shared=shared, span=span)
        worker.zygote = zygote
        worker.oom_kills = self._oom_counter.read()
        self._known.add(worker)
        passed: list[int] = []
        self._coming += 1
        try:
            passed.append(self._control_pair(worker))
            passed.append(self._output_pipe(worker, "stdout"))
            passed.append(self._output_pipe(worker, "stderr"))
            worker.os_pid, worker.pidfd = await zygote.fork(
                (*passed, worker.slot.fd, self._names_fd, *self._leases.fds),
                self._fields_of(worker, process or {}),
            )
        except BaseException as error:
            self._discard(worker)
            if needs_room and isinstance(error, OSError) and error.errno == errno.EMFILE:
                # Somebody else took what was free a moment ago.
                raise self._no_room(label) from error
            raise
        finally:
            self._coming -= 1
            fds.close_all(passed)
        self._watch(worker)
        return worker

    def _check_room(self, label: str) -> None:
        open_fds, limit = fds.usage()
        free = limit - open_fds
        # The first is quick, and mostly settles it.
        if free < self._fds_at_most and free < self._fds_needed:
            raise self._no_room(label)

    def have_room_to_spare(self, linked: set[Worker]) -> bool:
        """Return whether a descriptor is free that is kept neither for restarts nor for links.

        Args:
            linked: The workers that the program around the root has a link to.
        """
        open_fds, limit = fds.usage()
        return limit - open_fds > FDS_KEPT_BACK + len(self._known - linked)

    @property
    def _fds_at_most(self) -> int:
        return FDS_TO_START + FDS_KEPT_BACK + self._coming + len(self._known)

    @property
    def _fds_needed(self) -> int:
        # The servers there are can be called, also those that nobody has called so far.
        linked = self._known if self._linked is None else self._linked()
        return self._fds_at_most - len(self._known & linked)

    def _no_room(self, label: str) -> OutOfDescriptorsError:
        return OutOfDescriptorsError(label, *fds.usage(), self._fds_needed)

    def _fields_of(self, worker: Worker, process: dict[str, Any]) -> dict[str, Any]:
        is_fresh = process.get("start") == "exec"
        return {
            **self._fields,
            **({"exec": process.get("env", {})} if is_fresh else {}),
            "worker": worker.number,
            "slot": worker.slot.offset,
            "black_box_offset": worker.slot.offset + TEXT_OFFSET,
            "allow_pickle": self._allow_pickle,
            "bytes_from": cut_over.here.bytes_from,
            "shared": worker.shared,
            "span": worker.span,
        }

    def _control_pair(self, worker: Worker) -> int:
        ours, theirs = fds.socketpair()
        connection = worker.connection
        connection.attach(
            ControlLink(
                self._loop,
                ours,
                peer=f"{worker.label} (worker {worker.number})",
                on_frame=lambda link, frame: self._on_frame(connection, frame),
                on_close=lambda link, problem: self._control_closed(worker, problem),
                encoder=self._encoder,
                allow_pickle=self._allow_pickle,
            )
        )
        return theirs.detach()

    def _output_pipe(self, worker: Worker, stream: str) -> int:
        read_end, write_end = os.pipe()
        try:
            worker.outputs.append(Output(self._loop, read_end, stream, worker.label, self._sink))
        except BaseException:
            fds.close_all([read_end, write_end])
            raise
        return write_end

    def _watch(self, worker: Worker) -> None:
        self._by_os_pid[worker.os_pid] = worker
        if worker.pidfd != fds.NO_FD:
            fds.own(worker.pidfd)
            self._loop.add_reader(worker.pidfd, self._pidfd_readable, worker)
        elif worker.connection.closed:
            # It has come and gone already.
            self._gone(worker)

    # --- death -------------------------------------------------------------------------

    def on_exit(self, os_pid: int, status: int, peak_rss: int) -> None:
        """Take the zygote's report of a wait status, and of the most memory it had, in bytes."""
        worker = self._by_os_pid.get(os_pid)
        if worker is not None:
            worker.is_reaped = True
            worker.peak_rss = peak_rss
            self._finish(worker, status)

    def on_zygote_death(self, zygote: Zygote) -> None:
        """Go on without the reports of a zygote that is dead."""
        for worker in self.all():
            if worker.zygote is zygote:
                worker.zygote = None
                if worker.is_gone:
                    self._expect_no_report(worker)

    def _pidfd_readable(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.pidfd)
        self._gone(worker)

    def _gone(self, worker: Worker) -> None:
        worker.is_gone = True
        if worker.zygote is None:
            self._expect_no_report(worker)
        else:
            self._loop.call_later(STATUS_PATIENCE, self._finish_without_report, worker)

    def _expect_no_report(self, worker: Worker) -> None:
        self._kill_leftovers(worker)
        self._look_whether_reaped(worker, _FIRST_LOOK)

    def _look_whether_reaped(self, worker: Worker, pause: float) -> None:
        # Whoever inherited it reaps it in a moment; the kernel knows the status after that. That
        # it has is no event that anybody else is told of.
        if not worker.alive:
            return
        if pause > _LAST_LOOK or fds.is_reaped(worker.pidfd, worker.os_pid):
            self._finish_without_report(worker)
        else:
            self._loop.call_later(pause, self._look_whether_reaped, worker, 2 * pause)

    def _finish_without_report(self, worker: Worker) -> None:
        if worker.alive:
            self._finish(worker, fds.exit_status_of(worker.pidfd))

    def _kill_leftovers(self, worker: Worker) -> None:
        # Its zygote would have done it. The group's id is not given away while it has members.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.os_pid, signal.SIGKILL)

    def _finish(self, worker: Worker, status: int | None) -> None:
        if not worker.alive:
            return
        # Without a zygote the number may be another worker's by now.
        if self._by_os_pid.get(worker.os_pid) is worker:
            del self._by_os_pid[worker.os_pid]
        try:
            # What it said before it died is still in the socket.
            worker.connection.control.drain()
            for output in worker.outputs:
                output.finish()
            worker.last_words = self._black_box.read(worker.slot)
            self._look_for_oom(worker, status)
        finally:
            worker.dead.set_result(status)
            worker.toll = len(worker.residents)
            try:
                self._on_dead(worker)
            finally:
                self._discard(worker)

    def _look_for_oom(self, worker: Worker, status: int | None) -> None:
        before = worker.oom_kills
        worker.oom_kills = max(0, self._oom_counter.read() - before)
        # Whether it was a kill of ours, `exits` looks first.
        if status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            worker.ran_out_of_memory = self._oom_counter.explains(before)

    def _discard(self, worker: Worker) -> None:
        self._known.discard(worker)
        # The last comes first. Each happens although another fails, for lack of memory perhaps.
        with contextlib.ExitStack() as steps:
            steps.callback(self._black_box.give_back, worker.slot)
            steps.callback(worker.connection.close)
            for output in worker.outputs:
                steps.callback(output.close)
            steps.callback(self._close_pidfd, worker)
            if worker.watch is not None:
                steps.callback(worker.watch.stop)

    def _close_pidfd(self, worker: Worker) -> None:
        if worker.pidfd != fds.NO_FD:
            self._loop.remove_reader(worker.pidfd)
            fds.close_all([worker.pidfd])
            worker.pidfd = fds.NO_FD

    def _control_closed(self, worker: Worker, problem: Exception | None) -> None:
        # An end of file is its death, of which we hear otherwise. A worker that talks nonsense,
        # or closed its control link, is of no use any more. Half a frame is no nonsense: it died
        # in the middle of it.
        if problem is not None and not isinstance(problem, TruncatedFrameError):
            worker.problem = problem
        elif worker.os_pid and not lifeline.is_ending(worker.os_pid):
            worker.problem = ProtocolError(
                "it closed or replaced descriptors of the runtime, and could not go on"
            )
        worker.signal_group(signal.SIGKILL)
        if worker.pidfd == fds.NO_FD and worker.os_pid and worker.alive and not worker.is_gone:
            # No other news of its end is to be expected, should the zygote be dead.
            self._gone(worker)
