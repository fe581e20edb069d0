"""`noex-mp dlq list|show|retry|drop`: messages that are not delivered any more."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from noex_mp.cli import statuses
from noex_mp.cli.call import OperationByName, complain, show_reply, take_replies_as_they_are
from noex_mp.cli.client import RunningNode, ask_all, run_with_nodes
from noex_mp.cli.results import show
from noex_mp.cli.words import amount, listed
from noex_mp.core.dead_letters import letter_from_plain
from noex_mp.errors import CallError, ConfigError, NoDeadLetterError

__all__ = ["drop_letter", "list_letters", "retry_letter", "show_letter"]

# The courier says that the time is over, rather than we.
GRACE: Final = 1.0


def list_letters(*, node: str | None, as_json: bool) -> int:
    """Print a line for each dead letter of one node, or of all; return the exit status.

    Args:
        node: The node's name; None means all that run.
        as_json: For programs: one object for each letter, each on a line.
    """
    return _run(node, lambda nodes: _list(nodes, as_json=as_json))


def show_letter(letter: int, *, node: str | None, as_json: bool) -> int:
    """Print all that is known of a dead letter; return the exit status.

    Args:
        letter: Its number.
        node: The node's name; None means whichever has it.
        as_json: For programs: as one object.
    """
    return _run(node, lambda nodes: _show(nodes, letter, as_json=as_json))


def retry_letter(letter: int, *, node: str | None, timeout: float | None, verbose: bool) -> int:
    """Send a message again and print the reply; return the exit status.

    Args:
        letter: The number of its dead letter.
        node: The node's name; None means whichever has it.
        timeout: How long to wait for the reply, in seconds; None waits for ever.
        verbose: Show the traceback of an error at the server.
    """
    take_replies_as_they_are()
    return _run(node, lambda nodes: _retry(nodes, letter, timeout, verbose=verbose))


def drop_letter(letter: int, *, node: str | None) -> int:
    """Forget a dead letter; return the exit status.

    Args:
        letter: Its number.
        node: The node's name; None means whichever has it.
    """
    return _run(node, lambda nodes: _drop(nodes, letter))


def _run(name: str | None, act: Callable[[list[RunningNode]], Awaitable[int]]) -> int:
    async def act_or_say_why_not(nodes: list[RunningNode]) -> int:
        try:
            return await act(nodes)
        except CallError as error:
            print(f"noex-mp: {error}", file=sys.stderr)
            return statuses.FAILED

    return run_with_nodes(name, act_or_say_why_not)


# --- to look at them ----------------------------------------------------------------------------


async def _list(nodes: list[RunningNode], *, as_json: bool) -> int:
    answers, status = await ask_all(nodes, RunningNode.dead_letters)
    sections: list[str] = []
    for node, answer in answers:
        if as_json:
            sections += [json.dumps({"node": node.name, **each}) for each in answer["letters"]]
        else:
            sections.append("\n".join([_head(node, answer), *map(_line, answer["letters"])]))
    if sections:
        show(("\n" if as_json else "\n\n").join(sections))
    return status


def _head(node: RunningNode, answer: dict[str, Any]) -> str:
    dropped = f" ({answer['dropped']} older ones were dropped)" if answer["dropped"] else ""
    return f"{node}, {amount(len(answer['letters']), 'dead letter')}{dropped}"


def _line(letter: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(letter["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    not_kept = "" if letter["is_kept"] else " (the message was too large to be kept)"
    return f"{letter['id']}  {moment}  {letter['summary']}{not_kept}"


async def _show(nodes: list[RunningNode], number: int, *, as_json: bool) -> int:
    found = await _find(nodes, number)
    if found is None:
        return statuses.FAILED
    node, letter = found
    if as_json:
        show(json.dumps({"node": node.name, **letter}))
    else:
        show(f"{node}, {letter_from_plain(letter, '').text}")
    return statuses.OK


async def _find(nodes: list[RunningNode], number: int) -> tuple[RunningNode, dict[str, Any]] | None:
    """Return the letter with this number, and the node that has it; None after a complaint.

    Raises:
        ConfigError: Several nodes have one.
    """
    answers, status = await ask_all(nodes, lambda node: node.dead_letter(number))
    found = [(node, letter) for node, letter in answers if letter is not None]
    if len(found) > 1:
        names = listed(node.name for node, _ in found)
        raise ConfigError(
            f"{len(found)} nodes have a dead letter {number}: {names}\nChoose with --node."
        )
    if not found and status == statuses.OK:
        print(f"noex-mp: there is no dead letter {number}\n{_HINT}", file=sys.stderr)
    return found[0] if found else None


_HINT: Final = "See them all with: noex-mp dlq list"


# --- to act on them -----------------------------------------------------------------------------


async def _retry(
    nodes: list[RunningNode], number: int, timeout: float | None, *, verbose: bool
) -> int:
    found = await _find(nodes, number)
    if found is None:
        return statuses.FAILED
    node, _ = found
    try:
        sid, label = await node.send_courier(number)
        limit = None if timeout is None else timeout + GRACE
        route = node.client.route(sid, label)
        reply = await route.invoke(OperationByName("deliver"), (timeout,), {}, limit)
    except Exception as error:
        complain(error, verbose=verbose)
        if not isinstance(error, NoDeadLetterError):
            print("The dead letter stays.", file=sys.stderr)
        return statuses.FAILED
    return show_reply(reply)


async def _drop(nodes: list[RunningNode], number: int) -> int:
    found = await _find(nodes, number)
    if found is None:
        return statuses.FAILED
    node, _ = found
    await node.drop_dead_letter(number)
    return statuses.OK
