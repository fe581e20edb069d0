"""`python -m tests.chaos`: kill servers under load, and say what became of it."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.chaos.run import Plan, Report, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, and return the exit status: 1 if something was not as it must be."""
    args = _parser().parse_args(argv)
    plan = Plan(args.seconds, args.servers, args.rate, args.casts, args.kills, args.seed)
    if args.plain:
        os.environ["NOEX_MP_LOOP"] = "asyncio"
    factory = asyncio.new_event_loop if args.plain else uvloop.new_event_loop
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=factory) as runner:
        report = runner.run(run(plan, Path(folder)))
    print(as_json(report) if args.json else _in_words(plan, report))
    return 1 if report.faults else 0


def as_json(report: Report) -> str:
    """Return all that was found."""
    found = dataclasses.asdict(report)
    for moment in ("before", "after"):
        found[moment]["names"] = len(found[moment]["names"])
    return json.dumps(found)


def _in_words(plan: Plan, report: Report) -> str:
    found = report.audit
    errors = ", ".join(f"{count:,} {name}" for name, count in found.errors.items())
    text = f"""\
{plan.servers} servers, {report.seconds:.1f} s, seed {plan.seed}
kills: {report.kills:,}; deaths: {report.deaths:,}; restarts: {report.restarts:,}
calls: {found.calls:,} ({report.calls_per_second:,.0f}/s); held back: {report.held_back:,}
replied: {found.replied:,}; errors: {errors or "none"}
latest answer: {report.late * 1e3:.0f} ms after its limit; event loops: {report.lag * 1e3:.0f} ms
casts: {found.casts:,} = {found.handled:,} handled + {found.lost:,} counted lost + {found.unseen} \
killed at their begin
before: {report.before.in_words}
after: {report.after.in_words}"""
    return "\n".join([text, *(f"FAULT: {fault}" for fault in report.faults)])


def _parser() -> argparse.ArgumentParser:
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="default: %(default)g")
    parser.add_argument("--servers", type=int, default=usual.servers, help="default: %(default)s")
    parser.add_argument(
        "--rate", type=float, default=usual.rate, help="calls/s; default: %(default)g"
    )
    parser.add_argument(
        "--casts", type=float, default=usual.casts, help="for each call; default: %(default)g"
    )
    parser.add_argument(
        "--kills", type=int, default=usual.kills, help="in all; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="default: %(default)s")
    parser.add_argument("--plain", action="store_true", help="asyncio's own loops, not uvloop's")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
