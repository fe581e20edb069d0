"""Every message kind on the wire: the first element of each frame.

A frame is one msgpack array. The data plane (a direct link between a client and a worker)
and the control plane (between the root and each process) have kinds of their own; the
comment behind each kind lists the elements that follow it.

Words used below:
    sid: The number of a server (a child); it keeps it through restarts. Unique in a node.
    seq: Counts the messages of one client to one server, casts and calls alike, from 1.
        It goes on counting through restarts, so an incarnation's begun messages are just
        "all up to the number in its started cell".
    due: When a call is out of time, in seconds of the machine's monotonic clock; inf is never.
    incarnation: Counts the starts of one server, from 1.
"""

from __future__ import annotations

from typing import Final

# Both planes. Announces big buffers: their bytes follow this frame raw, one after the other,
# and belong to the next frame.
BUFFERS: Final = 9  # [[is_array, size], ...]

# Data plane, client to worker. The four kinds of messages; the hot path compares with <=.
CAST: Final = 0  # sid, seq, operation, *args
CALL: Final = 1  # sid, seq, operation, due, *args
CAST_KW: Final = 2  # sid, seq, operation, kwargs, *args
CALL_KW: Final = 3  # sid, seq, operation, due, kwargs, *args

# Data plane, client to worker. OPEN: what follows for this server is meant for this incarnation.
# Whatever comes for a server without it, or after the incarnation has ended, is dropped: the
# client hears of the end and sorts its messages.
OPEN: Final = 11  # sid, incarnation
# sid, count, bytes: say GRANT when the messages ahead of this one are off your list. The bytes are
# those of the heavy messages (see client/window.py) since the last ASK.
ASK: Final = 6
CANCEL: Final = 7  # sid, seq: nobody waits for this call any more
PROBE: Final = 10  # sid, seq, path: is this call part of a circle? see worker/cycles.py

# Data plane, worker to client.
REPLY: Final = 4  # sid, seq, value
ERROR: Final = 5  # sid, seq, exception: the caller's mistake, or expected; the server lives
# sid, count, messages, bytes, begun: the answer to ASK, the sender's window now, and what its
# started cell says.
GRANT: Final = 8
# The incarnation has ended, in a worker that lives on, and all its replies came before this.
END: Final = 12  # sid, incarnation

# The operation of `ref.call(message)` and `ref.cast(message)`: OTP's callbacks.
CALLBACK: Final = ""
# The operation of a cast that is for `handle_info`.
INFO: Final = "!"


def callback_name(operation: str, *, is_call: bool) -> str:
    """Return what handles a message, for people: its operation, or one of OTP's callbacks.

    >>> callback_name("increment", is_call=True), callback_name("", is_call=False)
    ('increment', 'handle_cast')
    """
    if operation == INFO:
        return "handle_info"
    return operation or ("handle_call" if is_call else "handle_cast")


# Data plane, both ways: I have a lease of my own on the oldest piece of shared memory that you have
# lent me, and not heard of since.
TAKEN: Final = 13

# Control plane, any process to the root.
HELLO: Final = 20  # worker_id, protocol version, token
READY: Final = 21  # sid, incarnation: its init has returned
NOT_READY: Final = 22  # sid, incarnation, reason, error, traceback: Normal means Ignore()
# sid, incarnation, reason, error, traceback, {link_id: begun}, evidence: the server has ended. The
# dict names the links that get an END, where the worker lives on. The evidence is for the report:
# "message" (link_id, seq, operation, size, age, arguments), "waiting" (messages), "rss" (bytes),
# each of which may be missing.
EXITED: Final = 23
LOCATE: Final = 24  # sid: tell me where it is, now and after every restart
LOST: Final = 25  # sid, incarnation, count: casts of mine that it never began
# sid, count: the mailbox is full; so many messages were refused or dropped, the others wait.
DROPPED: Final = 26
REQUEST: Final = 27  # request id, method, *parameters
LINK_LOST: Final = 28  # link_id, problem: a data link has ended at my end
UNLINKED: Final = 29  # link_id, {sid: begun}: the answer to UNLINK
CONNECT: Final = 30  # label; with an fd: the control link of another client, a thread of mine
# number, target (sid, name or path), is_lasting: tell me when it ends; every time, if that lasts.
MONITOR: Final = 31
DEMONITOR: Final = 32  # number
TIE: Final = 33  # sid, incarnation, target: the end of one is to be the end of the other
UNTIE: Final = 34  # sid, incarnation, target
TRAP: Final = 35  # sid, incarnation, traps: exit signals are to come as messages, or not
# number, registry, key: tell me (CHANGED) now, and whenever something changes under that key.
WATCH_KEY: Final = 36
UNWATCH_KEY: Final = 37  # number
# -; with an fd, the description that has all my leases on shared memory: they are to outlive me.
LEASES: Final = 58
# [[request id, method, *parameters], ...]: what waits for nothing, and is answered together.
REQUESTS: Final = 39

# Control plane, the root to a process.
START: Final = 40  # sid, incarnation, spec
STOP: Final = 41  # sid, reason
KILL: Final = 42  # sid, reason: end it without its terminate; what it awaits is cancelled
LEAVE: Final = 43  # -: the last server of a placement group is gone for good
LINK: Final = 44  # link_id, peer, trusted, is_worker; with an fd: serve this client
# link_id, peer_is_gone: handle what its client had sent and forget it; or, where only the link is
# broken, end it, and drop what came on it and has not begun: it is sent again.
UNLINK: Final = 45
# sid, incarnation, link_id, is_new, mailbox (messages, bytes, when full, senders); with an fd where
# it is new.
LOCATED: Final = 46
# sid, incarnation, link_id, begun, report, error: sort the calls. With a link_id, its worker lives
# on: first read the link up to the END.
DOWN: Final = 47
# link_id, replies that were not sent: the worker is dead, or the link broken. Drain the link, take
# the replies, close the link; a DOWN follows for each server that was behind it.
LINK_DOWN: Final = 48
# sid: the root knows how this server's last incarnation ended; its cells may be used again.
FORGET: Final = 49
GONE: Final = 50  # sid, report, error: there will be no further incarnation
RESPONSE: Final = 51  # request id, succeeded, value (or an error and its cause as a payload)
MONITORED: Final = 52  # numbers, sid, reason, report, restart: a `Down` for each
# sid, incarnation, sender (sid, label, kind; or None), reason, report: an `Exit`, to a server that
# traps exits.
SIGNAL: Final = 53
CHANGED: Final = 54  # numbers: look at your copy of the registries, for these WATCH_KEYs

# -: the node has stopped, in good order, and nothing comes behind this. A link that ends without it
# was closed since its peer talked nonsense, or the root has died.
STOPPED: Final = 55
RESPONSES: Final = 57  # [[request id, succeeded, value (or error and cause)], ...]: to REQUESTS
PRESSURE: Final = 56  # sid, incarnation, used, limit: a `MemoryPressure` for the server

# Said in HELLO; a process of another version is refused.
PROTOCOL_VERSION: Final = 1
