"""Run CPython's own tests of its process pool against ours.

```text
python -m tests.conformance [--fast] [pattern ...]
```

A pattern is as for `fnmatch`, and is compared with `Class.test`. Without one, all are run. Those
that `docs/executor-conformance.md` lists do not apply, and must not pass: the page would be wrong.
So it would be if the suite skipped one that is not listed there.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import sys
import tempfile
import unittest
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noex_mp import Node
from tests.conformance.adapted import lanes
from tests.conformance.suite import NOT_HERE, SKIPPED, find_suite, is_listed, listed

# What automake's tests say that cannot be run.
NO_SUITE = 77

# In seconds. The longest takes 8; who is not done by then hangs, and everybody is to see where.
LIMIT = 60


if TYPE_CHECKING:
    TextResult = unittest.TextTestResult[Any]
else:
    TextResult = unittest.TextTestResult


class Result(TextResult):
    """Ends a run in which a test hangs, or leaves a process behind."""

    def startTest(self, test: unittest.TestCase) -> None:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        # One that has failed leaves its executor in the frames of its error.
        gc.collect()
        for lane in lanes():
            lane.wait(LIMIT)
        faulthandler.cancel_dump_traceback_later()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument(
        "--fast", action="store_true", help="leave out what takes seconds by design"
    )
    args = parser.parse_args()
    suite = find_suite()
    if suite is None:
        print("CPython's test package is not installed for this Python, nor for a newer one here")
        return NO_SUITE
    print(f"{suite.path}{', borrowed' if suite.is_borrowed else ''}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        suite.put_on_path(Path(folder))
        # One for all of them: the suite looks for threads that a test leaves behind.
        with Node():
            tests = [each for each in suite.tests() if is_wanted(each, args.patterns)]
            if args.fast:
                support: Any = importlib.import_module("test.support")
                support.use_resources = []
            return run(tests, may_skip=args.fast)


def is_wanted(test: unittest.TestCase, patterns: list[str]) -> bool:
    """Return whether a pattern fits a test."""
    name = ".".join(test.id().rsplit(".", 2)[1:])
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def run(tests: list[unittest.TestCase], may_skip: bool) -> int:
    """Run tests, those that do not apply among them, and return the exit status.

    Args:
        tests: The tests.
        may_skip: Whether one may be skipped that the page does not list.
    """
    not_here, skipped = listed(NOT_HERE), listed(SKIPPED)
    for test in tests:
        if is_listed(test, not_here):
            vars(test)["__unittest_expecting_failure__"] = True
    make: Any = Result
    result = unittest.TextTestRunner(verbosity=2, resultclass=make).run(unittest.TestSuite(tests))
    unlisted = [each.id() for each, _ in result.skipped if not is_listed(each, skipped)]
    if unlisted and not may_skip:
        print("skipped, and not in the page:", *unlisted, sep="\n    ")
        return 1
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
