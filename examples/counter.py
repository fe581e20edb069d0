"""A counter in a process of its own, which is killed and comes back.

Run it with `python -m examples.counter`.
"""

from __future__ import annotations

import asyncio
import os
import signal

from noex_mp import GenServer, ServerExitedError, call, cast, spawn


class Counter(GenServer):
    """Counts, and starts again from `start` when it has to be restarted."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    @call
    def increment(self, by: int = 1) -> int:
        """Add `by` and return the new value."""
        self.value += by
        return self.value

    @cast
    def reset(self) -> None:
        """Start again from zero."""
        self.value = 0

    @call
    def break_down(self) -> None:
        """End as a segfault or an overeager kernel would end it."""
        os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    """Count, lose the process, count on."""
    counter = await spawn(Counter, start=10)
    print("increment by 3:", await Counter.increment(counter, by=3))
    try:
        await Counter.break_down(counter)
    except ServerExitedError as error:
        print("break down:", error)
    # The same address, the next incarnation.
    print("increment:", await Counter.increment(counter))
    await Counter.reset(counter)
    print("increment after a reset:", await Counter.increment(counter))


if __name__ == "__main__":
    asyncio.run(main())
