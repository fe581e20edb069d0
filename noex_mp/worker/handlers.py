"""What a message's name stands for: an operation of the server, or one of OTP's callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noex_mp.core import gen_server
from noex_mp.core.gen_server import GenServer
from noex_mp.wire.envelopes import CALLBACK, INFO
from noex_mp.worker.begun import BegunRecord
from noex_mp.worker.queued import CALLS

__all__ = ["Handler", "find_callback", "find_operation"]


class Handler:
    """A bound operation or callback, ready to be called.

    Attributes:
        function: What to call.
        number: Under which the black box knows it.
        wants_sender: It is given whom to reply to.
        is_async: What it returns has to be awaited.
    """

    __slots__ = ("function", "is_async", "number", "wants_sender")

    def __init__(
        self,
        function: Callable[..., Any],
        number: int,
        *,
        wants_sender: bool = False,
        is_async: bool = False,
    ) -> None:
        self.function = function
        self.number = number
        self.wants_sender = wants_sender
        self.is_async = is_async


def find_operation(
    server: GenServer[Any, Any, Any], record: BegunRecord, name: str
) -> Handler | None:
    """Return the operation of this name, or None if there is none."""
    info = server.__operations__.get(name)
    if info is None:
        return None
    return Handler(
        info.function.__get__(server),
        record.number(name),
        wants_sender=info.wants_sender,
        is_async=info.is_async,
    )


def find_callback(
    server: GenServer[Any, Any, Any], record: BegunRecord, kind: int, name: str
) -> Handler | None:
    """Return the callback for a message that is no operation's, or None if there is none."""
    if name == INFO and kind not in CALLS:
        return Handler(server.handle_info, record.number("handle_info"))
    callback = "handle_call" if kind in CALLS else "handle_cast"
    if name != CALLBACK or not gen_server.has_callback(type(server), callback):
        return None
    number = record.number(callback)
    return Handler(getattr(server, callback), number, wants_sender=kind in CALLS)
