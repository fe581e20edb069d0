"""The command `noex-mp`: what can be typed, and where it goes.

The parts behind the commands are imported when they are needed, so that none waits for another's
imports.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import noex_mp
from noex_mp.cli import statuses
from noex_mp.cli.pid_one import stay_behind_as_pid_one
from noex_mp.cli.results import OutputError, show
from noex_mp.cli.signals import exit_at_once
from noex_mp.errors import ConfigError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  noex-mp init shop                        write a project to start from
  noex-mp run app:tree                     run the tree called tree in app.py
  noex-mp ps                               list the servers of the running nodes
  noex-mp exits                            say why servers have ended
  noex-mp dlq list                         list messages that are not delivered any more
  noex-mp health shop                      say whether the node called shop is ready
  noex-mp reload                           give all servers the code in their files
  noex-mp scale cpu 8                      let the pool called cpu have 8 processes
  noex-mp call visits increment 3          visits is a server's name, id or os pid
  noex-mp call index search '"asyncio"'    arguments are JSON, so texts need quotes
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    Args:
        argv: The words after `noex-mp`; None means those of this process.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        # See `early`.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return _run(parser, args)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _print_no_more()
        return statuses.FAILED
    except OutputError as error:
        _print_no_more()
        print(f"noex-mp: {error}", file=sys.stderr)
        return statuses.FAILED
    except KeyboardInterrupt:
        return statuses.INTERRUPTED
    except ConfigError as error:
        print(f"noex-mp: {error}", file=sys.stderr)
        return statuses.USAGE
    except Exception:
        traceback.print_exc()
        print("noex-mp failed by a fault of its own; please report it.", file=sys.stderr)
        return statuses.SOFTWARE


def _print_no_more() -> None:
    # What is left in the buffer, the interpreter would try to write once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    match args.command:
        case "run":
            exit_at_once(statuses.OK)
            stay_behind_as_pid_one()
            from noex_mp.cli.run import run

            return run(
                args.target,
                name=args.name,
                log_format=args.log_format,
                log_level=args.log_level,
                debug=args.debug,
                health=args.health,
                config=args.config,
                options=args.options,
                reload=args.reload,
            )
        case "init":
            from noex_mp.cli.init import init

            return init(args.folder)
        case "ps":
            from noex_mp.cli.ps import ps

            return ps(node=args.node, as_json=args.json)
        case "health":
            from noex_mp.cli.health import health

            return health(node=args.node, only_live=args.live, as_json=args.json)
        case "exits":
            from noex_mp.cli.exits import exits

            return exits(args.server, node=args.node, as_json=args.json)
        case "reload":
            from noex_mp.cli.reload import reload

            return reload(args.node, args.timeout)
        case "scale":
            from noex_mp.cli.scale import scale

            return scale(args.pool, args.size, node=args.node)
        case "call":
            from noex_mp.cli.call import call

            return call(
                args.server,
                args.operation,
                args.arguments,
                node=args.node,
                timeout=args.timeout,
                verbose=args.verbose,
            )
        case "dlq":
            return _run_dlq(args)
        case _:
            show(parser.format_help().rstrip())
            return statuses.OK


def _run_dlq(args: argparse.Namespace) -> int:
    from noex_mp.cli import dlq

    match args.action:
        case "list":
            return dlq.list_letters(node=args.node, as_json=args.json)
        case "show":
            return dlq.show_letter(args.letter, node=args.node, as_json=args.json)
        case "retry":
            return dlq.retry_letter(
                args.letter, node=args.node, timeout=args.timeout, verbose=args.verbose
            )
        case _:
            return dlq.drop_letter(args.letter, node=args.node)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="noex-mp",
        description="Run supervision trees of servers, each in an OS process, and talk to them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"noex-mp {noex_mp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run a tree in the foreground"))
    _add_init(commands.add_parser("init", help="write a small project to start from"))
    _add_call(commands.add_parser("call", help="call an operation of a running server"))
    _add_ps(commands.add_parser("ps", help="list the servers of the running nodes"))
    _add_health(commands.add_parser("health", help="say whether nodes are ready"))
    _add_exits(commands.add_parser("exits", help="say why servers have ended"))
    _add_dlq(commands.add_parser("dlq", help="look at messages that are given up, or send them"))
    _add_reload(commands.add_parser("reload", help="give the servers of a node their new code"))
    _add_scale(commands.add_parser("scale", help="let a pool have so many processes"))
    return parser


def _add_scale(scale: argparse.ArgumentParser) -> None:
    scale.description = (
        "Let a pool of a running node have so many processes, and wait until it has. Those that "
        "are too many finish what they have. Exit status: 0 done, 1 not done, and why is said, 2 "
        "bad command line."
    )
    scale.add_argument("pool", metavar="NAME", help="its name, else its path of ids (/front/cpu)")
    scale.add_argument("size", metavar="N", type=_count, help="how many")
    scale.add_argument("--node", help="the node's name; else whichever has the pool")


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return count


def _add_reload(reload: argparse.ArgumentParser) -> None:
    reload.description = (
        "Give the servers of a running node the code that stands in their files now, one by one, "
        "while they serve: each handles what has arrived, ends and starts again, and whoever calls "
        "it meanwhile waits. If one does not start with the new code, all get the old one back. "
        "Exit status: 0 done, 1 not done, and why is said, 2 bad command line."
    )
    reload.add_argument("node", metavar="NODE", nargs="?", help="its name; else the only one")
    reload.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="seconds that the import of the new code may take (default: 60), or none",
    )


def _add_run(run: argparse.ArgumentParser) -> None:
    run.description = (
        "Run a tree until a signal stops it: TERM, HUP or Ctrl-C in reverse order, Ctrl-C after "
        "that at once. Exit status: 0 stopped on request, 1 the tree gave up or did not start, "
        "2 bad command line or target, 70 a fault of noex-mp."
    )
    run.add_argument(
        "target",
        metavar="MODULE:TREE",
        help="a Supervisor, an Application, a Node, or a function that returns one; found from "
        "this folder",
    )
    run.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with a table for each application, as [shop]",
    )
    run.add_argument(
        "--set",
        dest="options",
        metavar="OPTION=VALUE",
        action="append",
        default=[],
        help="an option of the application; shop.port=9000 where there are several",
    )
    run.add_argument("--name", help="the node's name; else it is the module's")
    run.add_argument(
        "--debug",
        action="store_true",
        help="keep what the last message was called with, for exit reports; each message gets "
        "slower",
    )
    run.add_argument(
        "--health",
        metavar="[HOST:]PORT",
        help="answer /healthz and /readyz over HTTP there",
    )
    run.add_argument(
        "--reload",
        action="store_true",
        help="for development: start the tree anew when a file of the application changes",
    )
    run.add_argument("--log-format", choices=("text", "json"), default="text")
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def _add_init(init: argparse.ArgumentParser) -> None:
    init.description = (
        "Write a project to start from: an application with two servers, its tests, a Makefile, a "
        "unit for systemd and a Dockerfile."
    )
    init.add_argument(
        "folder", metavar="DIR", help="a new or an empty folder; its name is the project's"
    )


def _add_call(call: argparse.ArgumentParser) -> None:
    call.description = "Call an operation of a running server and print its reply as JSON."
    call.add_argument(
        "server",
        metavar="NAME",
        help="its name, else its path of ids (/front/web), its id, or its os pid",
    )
    call.add_argument("operation", metavar="OPERATION")
    call.add_argument(
        "arguments",
        metavar="JSON",
        nargs="*",
        # Without a default of its own it is called required where the operation is missing.
        default=(),
        help="""3, '"text"', '[1, 2]', by=3, to='"Ann"'""",
    )
    _add_patience(call)
    call.add_argument("--node", help="the node's name; else whichever has the server")


def _add_ps(ps: argparse.ArgumentParser) -> None:
    ps.description = "List the servers of one node, or of all that run."
    ps.add_argument("--json", action="store_true", help="for programs")
    ps.add_argument("--node", help="the node's name; else all")


def _add_health(health: argparse.ArgumentParser) -> None:
    health.description = (
        "Say whether one node is ready, or all that run: the tree has started, all applications "
        "run, and it does not stop. Exit status: 0 if so, else 1."
    )
    health.add_argument("node", metavar="NODE", nargs="?", help="the node's name; else all")
    which = health.add_mutually_exclusive_group()
    which.add_argument("--live", action="store_true", help="it is enough that it answers")
    which.add_argument("--ready", action="store_true", help="it has to be ready (the default)")
    health.add_argument("--json", action="store_true", help="for programs: an object on each line")


def _add_exits(exits: argparse.ArgumentParser) -> None:
    exits.description = (
        "Say why servers of the running nodes have ended: the last 200 ends of a node, the newest "
        "last, one line each; or all that is known of the last 10 of one server."
    )
    exits.add_argument(
        "server",
        metavar="NAME",
        nargs="?",
        help="its name, else its path of ids (/front/web), its id, or its os pid",
    )
    exits.add_argument("--json", action="store_true", help="for programs: an object on each line")
    exits.add_argument("--node", help="the node's name; else all")


def _add_dlq(dlq: argparse.ArgumentParser) -> None:
    dlq.description = (
        "Dead letters: messages that are not delivered any more, since their server has ended in "
        "the middle of them again and again."
    )
    actions = dlq.add_subparsers(dest="action", metavar="ACTION", required=True)
    every = actions.add_parser("list", help="one line for each, the oldest first")
    every.add_argument("--json", action="store_true", help="for programs: an object on each line")
    one = actions.add_parser("show", help="all that is known of one, with its exit reports")
    one.add_argument("--json", action="store_true", help="for programs: as one object")
    retry = actions.add_parser("retry", help="send it again, print the reply, and forget it")
    _add_patience(retry)
    drop = actions.add_parser("drop", help="forget it")
    for action in (one, retry, drop):
        action.add_argument("letter", metavar="ID", type=int, help="its number")
    every.add_argument("--node", help="the node's name; else all")
    for action in (one, retry, drop):
        action.add_argument("--node", help="the node's name; else whichever has it")


def _add_patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="seconds to wait for the reply (default: 5), or none to wait for ever",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show tracebacks of the server"
    )


def _seconds(text: str) -> float | None:
    if text == "none":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above zero, or none, got {text!r}")
    return seconds
