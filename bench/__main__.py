"""`python -m bench`: measure, show, judge."""

from __future__ import annotations

import argparse
import difflib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import floor
from bench.cases import MEASUREMENTS, ROWS
from bench.harness import Result, Row, as_json, judge, measure_here, rounds_of, table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: 1 if something missed what it must reach."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(MEASUREMENTS))
        return 0
    if args.measure:
        print(json.dumps(measure_here(MEASUREMENTS[args.measure])))
        return 0
    only: list[str] = args.only or list(MEASUREMENTS)
    if unknown := [name for name in only if not named(name)]:
        close = difflib.get_close_matches(unknown[0], MEASUREMENTS, n=1) or list(MEASUREMENTS)
        parser.error(f"there is no measurement {unknown[0]!r}; did you mean {', '.join(close)}?")
    chosen = {each for name in only for each in named(name)}
    return _run([row for row in ROWS if row.source[0] in chosen], args.rounds, args.json, args.seed)


def named(name: str) -> list[str]:
    """Return the measurements of that name, or of that group: `pools` is all of `pools.x`."""
    return [each for each in MEASUREMENTS if each == name or each.startswith(f"{name}.")]


def _run(rows: list[Row], count: int, json_file: Path | None, seed: int | None) -> int:
    if floor.compiler():
        floor.build()
    needed = {name for row in rows for name in row.needs()}
    chosen = {name: m for name, m in MEASUREMENTS.items() if name in needed}
    rounds = rounds_of(chosen, count, seed=seed, progress=_progress)
    _progress("")
    results = [judge(row, rounds) for row in rows]
    print(_machine())
    print(table(results))
    if json_file is not None:
        json_file.write_text(as_json(results, rounds) + "\n")
    return _status(results)


def _status(results: list[Result]) -> int:
    bad = [r.row.name for r in results if r.verdict in {"MISSED", "FAILED"}]
    if bad:
        print(f"\nnot reached: {'; '.join(bad)}")
    return 1 if bad else 0


def _machine() -> str:
    kind = "C" if floor.compiler() else "Python (there is no C compiler)"
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}; the floor is in {kind}; all on one core but most pools\n"
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this measurement or group; may be repeated"
    )
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    parser.add_argument("--seed", type=int, help="of the order in which things are run")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more rounds, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
