"""`noex-mp call NAME OPERATION [JSON...]`: one call to a running server, its reply as JSON."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from noex_mp.cli import statuses
from noex_mp.cli.client import PATIENCE, RunningNode, close_all, connect
from noex_mp.cli.replies import import_no_applications, plain
from noex_mp.cli.results import as_json, show
from noex_mp.cli.words import listed
from noex_mp.errors import (
    ConfigError,
    NoexError,
    NoServerError,
    ServerExitedError,
    UnknownOperationError,
)

__all__ = [
    "OperationByName",
    "call",
    "complain",
    "find_server",
    "parse_arguments",
    "show_reply",
    "take_replies_as_they_are",
]

# A node that runs answers in a few milliseconds. One that takes longer is waited for only as long
# as no other has the server.
A_MOMENT: Final = 0.5

#: A server, as its node describes it.
Place: TypeAlias = tuple[RunningNode, dict[str, Any]]
Asked: TypeAlias = tuple[RunningNode, "asyncio.Task[list[dict[str, Any]]]"]

_KEYWORD: Final = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)


class Message(NamedTuple):
    """What to send: an operation's name and its arguments."""

    operation: str
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class OperationByName:
    """An operation as far as its name, which is all that another program knows of it."""

    name: str
    idempotent: bool = False
    max_deliveries: None = None


def call(
    server: str,
    operation: str,
    arguments: Sequence[str],
    *,
    node: str | None,
    timeout: float | None,
    verbose: bool,
) -> int:
    """Make a call and print the reply; return the exit status.

    Args:
        server: The server's name, else its id, else its os pid.
        operation: What to call.
        arguments: As they were typed: JSON values, and `key=JSON`.
        node: The node's name; None means whichever has the server.
        timeout: How long to wait for the reply, in seconds; None waits for ever.
        verbose: Show the traceback of an error at the server.
    """
    try:
        _refuse_no_operation(server, operation)
        args, kwargs = parse_arguments(arguments)
    except ConfigError as error:
        print(f"noex-mp: {error}", file=sys.stderr)
        return statuses.USAGE
    take_replies_as_they_are()
    message = Message(operation, args, kwargs)
    try:
        reply = asyncio.run(_call(server, message, node, timeout))
    except Exception as error:
        complain(error, verbose=verbose)
        return statuses.FAILED
    return show_reply(reply)


def take_replies_as_they_are() -> None:
    """Let this process take any reply, and use none of it."""
    import_no_applications()
    # The limit protects services from what strangers send. A reply is to be seen as it is.
    sys.set_int_max_str_digits(0)


def show_reply(reply: object) -> int:
    """Print what a server has replied, as JSON; return the exit status."""
    # People get lines; programs that read lines get one.
    indent = 2 if sys.stdout is not None and sys.stdout.isatty() else None
    try:
        text = as_json(plain(reply), indent=indent)
    except RecursionError:
        print(f"noex-mp: {_TOO_DEEP}", file=sys.stderr)
        return statuses.FAILED
    show(text)
    return statuses.OK


_TOO_DEEP: Final = (
    "expected a reply that can be shown, got one whose values lie too deep in each other\n"
    "Call an operation that returns a part of it."
)


def _refuse_no_operation(server: str, operation: str) -> None:
    # An empty name is that of a message to `handle_call`, which only programs can send.
    if not operation:
        raise ConfigError(
            f"expected the name of an operation, got ''\n"
            f"For example: noex-mp call {server} increment 3"
        )


# --- arguments ----------------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the keyword arguments.

    >>> parse_arguments(["3", '"tea"', "by=[1, 2]"])
    ([3, 'tea'], {'by': [1, 2]})

    Raises:
        ConfigError: One of them is no JSON, or two have the same name.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in arguments:
        keyword = _KEYWORD.fullmatch(text)
        if keyword is None:
            args.append(_value(text, ""))
            continue
        name = keyword[1]
        if name in kwargs:
            raise ConfigError(f"the argument {name} is there twice")
        kwargs[name] = _value(keyword[2], f"{name}=")
    return args, kwargs


def _value(text: str, prefix: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        begin = f"{prefix}{text[:20]}..."
        raise ConfigError(
            f"expected JSON, got values that lie too deep in each other: {begin}"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"expected JSON, got {prefix}{text}\n{_hint(text, prefix, error)}"
        ) from None


def _hint(text: str, prefix: str, error: ValueError) -> str:
    if text in _CONSTANTS:
        return f"Write {prefix}{_CONSTANTS[text]}"
    if text.startswith(("[", "{", '"')):
        return f"It begins like JSON, but: {error}"
    quoted = json.dumps(text, ensure_ascii=False).replace("'", "'\\''")
    return f"A text needs quotes, and those need quotes for the shell: {prefix}'{quoted}'"


_CONSTANTS: Final = {"True": "true", "False": "false", "None": "null"}


# --- the call -----------------------------------------------------------------------------------


async def _call(server: str, message: Message, node: str | None, timeout: float | None) -> Any:
    nodes = connect(node)
    try:
        where, found = await find_server(server, nodes, timeout)
        route = where.client.route(found["sid"], found["server"])
        operation = OperationByName(message.operation)
        return await route.invoke(operation, tuple(message.args), message.kwargs, timeout)
    finally:
        close_all(nodes)


async def find_server(wanted: str, nodes: list[RunningNode], timeout: float | None) -> Place:
    """Return the server that is called so, and its node.

    Raises:
        ConfigError: Several are.
        NoServerError: None is.
        NoexError: No node answers.
    """
    patience = PATIENCE if timeout is None else min(PATIENCE, max(timeout, A_MOMENT))
    asked = [(node, asyncio.create_task(node.servers(patience))) for node in nodes]
    waiting = {answer for _, answer in asked}
    _, waiting = await asyncio.wait(waiting, timeout=A_MOMENT)
    while waiting and not _choices(wanted, _everybody(asked)):
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for answer in waiting:
        answer.cancel()
    everybody = _everybody(asked)
    found = _choices(wanted, everybody)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(_which(wanted, found))
    raise _nobody(wanted, asked, everybody)


def _everybody(asked: list[Asked]) -> list[Place]:
    """Return the servers of the nodes that have answered."""
    answered = [(n, a) for n, a in asked if a.done() and not a.cancelled() and not a.exception()]
    return [(node, server) for node, answer in answered for server in answer.result()]


def _choices(wanted: str, everybody: list[Place]) -> list[Place]:
    for key in ("name", "path", "id", "os_pid"):
        found = [(n, s) for n, s in everybody if s[key] is not None and str(s[key]) == wanted]
        if found:
            return found
    return []


def _nobody(wanted: str, asked: list[Asked], everybody: list[Place]) -> BaseException:
    """Return the error that says that nobody was found, and who was silent."""
    silent = [error for _, answer in asked if (error := answer.exception()) is not None]
    if len(silent) == len(asked):
        return silent[0]
    nodes = [node for node, answer in asked if answer.exception() is None]
    lines = [_no_server(wanted, nodes, everybody)]
    lines += [f"It may be elsewhere: {error}" for error in silent]
    return NoServerError("\n".join(lines))


def _which(wanted: str, found: list[Place]) -> str:
    nodes = {node.name for node, _ in found}
    if len(nodes) > 1:
        where = listed(sorted(nodes))
        return f"{len(nodes)} nodes have a server {wanted}: {where}\nChoose with --node."
    choices = listed(str(server["name"] or server["os_pid"]) for _, server in found)
    return f"{len(found)} servers have the id {wanted}\nCall one by its name or os pid: {choices}"


def _no_server(wanted: str, nodes: list[RunningNode], everybody: list[Place]) -> str:
    names = [str(server["name"] or server["id"]) for _, server in everybody]
    where = f"on {nodes[0]}" if len(nodes) == 1 else f"on the nodes {listed(n.name for n in nodes)}"
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"\nDid you mean {near[0]}?" if near else ""
    return f"{wanted!r} {where}; there are: {listed(names)}{hint}"


# --- errors -------------------------------------------------------------------------------------


def complain(error: Exception, *, verbose: bool) -> None:
    """Say on standard error why there is no reply.

    Args:
        error: What came instead.
        verbose: Show where it happened at the server.
    """
    print(f"noex-mp: {_in_words(error)}", file=sys.stderr)
    remote = _remote_traceback(error)
    if verbose and remote:
        print(f"\n{remote}", file=sys.stderr)
    elif remote:
        print("With -v you see where it happened.", file=sys.stderr)


def _in_words(error: Exception) -> str:
    if isinstance(error, UnknownOperationError):
        near = difflib.get_close_matches(_bare(error.operation), error.known, n=1)
        return f"{error}\nDid you mean {near[0]}?" if near else str(error)
    # Ours say it all; an error of the server's needs its name.
    return str(error) if isinstance(error, NoexError) else _name_and_text(error)


def _bare(operation: str) -> str:
    """Return the name in `operation 'incremnt'`."""
    return operation.removeprefix("operation ").strip("'")


def _name_and_text(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remote_traceback(error: BaseException) -> str:
    """Return what is known of the place where it happened; may be empty."""
    if isinstance(error, ServerExitedError | NoServerError) and error.report is not None:
        return error.report.trace.rstrip()
    notes: list[str] = getattr(error, "__notes__", [])
    return "\n".join(notes)
