"""A node to be killed: its servers do what they are told, and it says who runs.

`python -m tests.faults.node_program FOLDER` prints one line of JSON: the os pids of the zygote,
of every worker and of every grandchild. The servers say with fifos in FOLDER that they are busy.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.nodes.observed import ObservedNode, Whistles
from tests.servers.counters import Caller, Counter, Journal
from tests.servers.faulty import Faulty, Stubborn


async def main(folder: Path) -> None:
    whistles = Whistles(folder)
    async with ObservedNode(name="doomed") as node:
        os_pids = [node.zygote]
        idle = await node.spawn(Counter)
        os_pids.append(await Counter.os_pid(idle))
        stubborn = await node.spawn(Stubborn, deaf=True)
        os_pids.append(await Stubborn.os_pid(stubborn))
        for deed in (Faulty.loop, Faulty.loop_in_c, Faulty.doze, Faulty.wait):
            busy = await node.spawn(Faulty)
            os_pids += [
                await Faulty.os_pid(busy),
                await Faulty.grandchild(busy),
                await Faulty.escaped_grandchild(busy),
            ]
            started = whistles()
            deed(busy.within(None), started.path)
            await started.heard()
        # One that waits for another.
        journal, calling = await node.spawn(Journal), await node.spawn(Caller)
        os_pids += [await Journal.os_pid(journal), await Caller.os_pid(calling)]
        started, never = whistles(), whistles()
        Caller.pause(calling.within(None), journal, started.path, never.path)
        await started.heard()
        print(json.dumps(os_pids), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
