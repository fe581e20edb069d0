"""The start of a worker that the zygote plays, so that workers share what it writes."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest

from noex_mp.wire.envelopes import END, EXITED, HELLO, READY, REPLY
from noex_mp.worker.rehearsal import fill_gaps, rehearse, rehearse_modules
from tests.processes.harness import running_root


def test_a_rehearsal_goes_from_the_hello_to_the_end_of_the_server() -> None:
    assert rehearse() == [HELLO, READY, EXITED, REPLY, REPLY, REPLY, END]
    # What it maps goes with it, as in the zygote.
    gc.collect()


async def test_a_worker_is_forked_with_its_bytecode_rewritten() -> None:
    # It would be rewritten after some runs, page after page in each worker.
    seen = "code._co_code_adaptive != code.co_code"
    code = f"from noex_mp.worker.host import Host; code = Host.__init__.__code__; say({seen})"
    async with running_root() as root:
        worker = await root.fork(code)
        assert await worker.hear() is True


def test_gaps_of_every_size_are_filled() -> None:
    pools = {-(-sys.getsizeof(each) // 16) * 16 for each in fill_gaps()}
    assert pools >= set(range(16, 513, 16))


def test_a_preloaded_module_may_have_a_rehearsal_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("with_rehearsal")
    played: list[str] = []
    vars(module)["noex_rehearse"] = lambda: played.append("once")
    monkeypatch.setitem(sys.modules, "with_rehearsal", module)
    rehearse_modules(["with_rehearsal", "not_there", "sys"])
    assert len(played) > 8
