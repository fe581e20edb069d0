"""What the root hears of servers: that they are ready, or have not come up, or have ended."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable
from functools import partial
from typing import Final, NoReturn

from noex_mp.core.outcomes import Ignore, Stop
from noex_mp.core.reasons import (
    Crash,
    ExitReason,
    InitFailed,
    Normal,
    OutOfMemory,
    is_abnormal,
)
from noex_mp.core.tracebacks import printed
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.platform import rss_of
from noex_mp.wire.classes import readable
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import EXITED, NOT_READY, READY
from noex_mp.wire.payload import pack_error
from noex_mp.worker.bootstrap import EXIT_SOFTWARE
from noex_mp.worker.clients import Clients
from noex_mp.worker.links import Links
from noex_mp.worker.mailbox import Mailbox

__all__ = ["LAST_FLUSH", "Ends"]

# How long a worker that is about to end waits for a peer that does not read, in seconds.
LAST_FLUSH: Final = 1.0

# The same for a server of many, of which the root has to hear before it loses patience with all.
END_IS_TOLD_AFTER: Final = 0.75


class Ends:
    """Tells the root what becomes of servers.

    Args:
        control: Where it hears of it.
        links: Those who have sent messages.
        clients: What servers have sent themselves, which comes first.
        encoder: Packs their exceptions.
        shared: Whether several servers live in this process.
    """

    def __init__(
        self,
        control: ControlLink,
        links: Links,
        clients: Clients,
        encoder: Encoder,
        *,
        shared: bool,
    ) -> None:
        self._control = control
        self._links = links
        self._clients = clients
        self._encoder = encoder
        self._shared = shared

    def ready(self, mailbox: Mailbox) -> None:
        """Tell the root that a server's `init` has returned."""
        mailbox.ready = True
        self._control.post([READY, mailbox.sid, mailbox.incarnation])

    def not_built(self, sid: int, incarnation: int, error: BaseException) -> None:
        """Tell the root that there is not even a server: its class or `__init__` raised."""
        self._not_ready(sid, incarnation, _init_failed(error), error)

    def not_ready(self, mailbox: Mailbox, outcome: Ignore | Stop | BaseException) -> None:
        """Tell the root that a server's `init` raised, or returned `Ignore` or `Stop`."""
        error = outcome if isinstance(outcome, BaseException) else None
        reason: ExitReason
        if isinstance(outcome, Ignore):
            reason = Normal()
        elif isinstance(outcome, Stop):
            reason = InitFailed(f"it returned {outcome!r}")
        else:
            reason = _init_failed(outcome)
        if mailbox.killed is not None:
            reason, error = mailbox.killed, None
        self._not_ready(mailbox.sid, mailbox.incarnation, reason, error)

    def _not_ready(
        self, sid: int, incarnation: int, reason: ExitReason, error: BaseException | None
    ) -> None:
        payload = pack_error(self._encoder, error)
        self._tell([NOT_READY, sid, incarnation, reason, payload, _traceback_of(error)])

    def ended(self, mailbox: Mailbox, reason: ExitReason, error: BaseException | None) -> None:
        """Tell the root that a server has ended."""
        sid, incarnation = mailbox.sid, mailbox.incarnation
        payload, trace = pack_error(self._encoder, error), _traceback_of(error)
        begun = self._links.close_server(sid, incarnation)
        evidence = mailbox.evidence
        if is_abnormal(reason) and not self._shared:
            evidence = {**evidence, "rss": rss_of(os.getpid())}
        self._tell([EXITED, sid, incarnation, reason, payload, trace, begun, evidence])

    def killed(self, mailbox: Mailbox, reason: ExitReason) -> None:
        """Tell the root that a server was ended without its `terminate`, as it wanted."""
        if mailbox.ready:
            self.ended(mailbox, reason, None)
        else:
            self._not_ready(mailbox.sid, mailbox.incarnation, reason, None)

    def _tell(self, frame: list[object]) -> None:
        client = self._clients.own
        if client is not None and self._shared:
            # What it has sent comes before the news of its end, wherever that is heard.
            client.when_sent(partial(self._control.post, frame), END_IS_TOLD_AFTER)
        else:
            self._control.post(frame)

    def out_of_memory(self, mailboxes: Iterable[Mailbox], limit: int | None) -> NoReturn:
        """End the process, and all its servers: there is no memory to go on with.

        Args:
            mailboxes: Of all servers.
            limit: How much private memory the process may have, in bytes, if that is limited.
        """
        reason: ExitReason = Crash("MemoryError", "its process had no memory left to go on")
        if limit is not None:
            reason = OutOfMemory(limit)
        with contextlib.suppress(Exception):
            # For its last words a limit that it has set itself, or we have, is lifted.
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
                most = resource.getrlimit(kind)[1]
                resource.setrlimit(kind, (most, most))
            for mailbox in mailboxes:
                begun = self._links.close_server(mailbox.sid, mailbox.incarnation)
                end = [mailbox.sid, mailbox.incarnation, reason, b"", ""]
                self._control.post(
                    [EXITED, *end, begun, {}] if mailbox.ready else [NOT_READY, *end]
                )
            self._control.send_all_blocking(LAST_FLUSH)
        os._exit(EXIT_SOFTWARE)

    def flush_blocking(self) -> None:
        """Send everything, as far as peers take it in time: the process is about to end."""
        if self._clients.own is not None:
            self._clients.own.flush_blocking(LAST_FLUSH)
        self._links.flush_blocking(LAST_FLUSH)
        self._control.send_all_blocking(LAST_FLUSH)


def _init_failed(error: BaseException) -> InitFailed:
    return InitFailed(f"{type(error).__name__}: {error}")


def _traceback_of(error: BaseException | None) -> str:
    return "" if error is None else readable(printed(error))
