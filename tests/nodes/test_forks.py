"""Forks beside a node: of the program that has it, and of a handler. Nobody else notices."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from noex_mp import ServerExitedError, spawn
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.processes.harness import REPOSITORY, wait_for_ends
from tests.servers.forking import Forking

pytestmark = pytest.mark.slow

ENDS = {"os._exit": 3, "sys.exit": 3, "raise": 1, "return": 70}


# --- in a handler ---


@on_both_loops
async def test_a_process_that_a_handler_forks_never_goes_on_as_the_worker() -> None:
    async with ObservedNode(preload=["tests.servers.forking"]) as node:
        forking = await spawn(Forking)
        operations = (Forking.fork, Forking.fork_slowly, Forking.fork_in_a_task)
        for operation in operations:
            for how, status in ENDS.items():
                if operation is Forking.fork_in_a_task and how == "raise":
                    # To raise in a task is to give its future an exception: nobody's end.
                    continue
                # Whatever is behind it in the same batch is handled once, by the worker.
                before = await Forking.add(forking)
                answers = [operation(forking, how), *(Forking.add(forking) for _ in range(20))]
                got = await asyncio.gather(*answers)
                assert got[0] == status
                assert got[1:] == list(range(before + 2, before + 22))
        assert [event.kind for event in node.seen if event.kind == "crashed"] == []


@on_both_loops
async def test_a_child_hides_nothing_of_what_the_worker_was_at() -> None:
    async with ObservedNode(preload=["tests.servers.forking"]):
        forking = await spawn(Forking)
        operations: dict[str, Callable[..., asyncio.Future[None]]] = {
            "fork_and_die": Forking.fork_and_die,
            "fork_slowly_and_die": Forking.fork_slowly_and_die,
        }
        for name, operation in operations.items():
            with pytest.raises(ServerExitedError) as failure:
                await operation(forking)
            report = failure.value.report
            assert report is not None
            assert report.message is not None
            assert report.message.operation == name


@on_both_loops
async def test_a_child_that_comes_back_from_a_cast_is_ended_and_told_why() -> None:
    async with ObservedNode(preload=["tests.servers.forking"]) as node:
        forking = await spawn(Forking)
        for n in range(10):
            await Forking.fork_unasked(forking, "return")
            await Forking.fork_unasked(forking, "sys.exit")
            assert await Forking.add(forking) == 3 * n + 3
        assert "came back from the handler" in await node.line("a handler forked")


@on_both_loops
async def test_a_child_answers_nobody_while_the_worker_goes_on_beside_it() -> None:
    async with ObservedNode(preload=["tests.servers.forking"]):
        forking = await spawn(Forking)
        os_pids = [await Forking.fork_and_forget(forking, how) for how in ENDS]
        assert 0 not in os_pids
        assert await Forking.add(forking) == 1
        statuses = [await Forking.wait_for(forking, os_pid) for os_pid in os_pids]
        assert statuses == list(ENDS.values())


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_multiprocessing_works_in_a_handler(method: str) -> None:
    async with ObservedNode(preload=["tests.servers.forking"]):
        forking = await spawn(Forking)
        got = await Forking.use_processes(forking.within(15), method)
        assert got == [1, 2, 3]
        assert await Forking.add(forking) == 1


@pytest.mark.parametrize("with_preexec", [False, True])
async def test_a_program_that_a_handler_runs_has_no_descriptor_of_ours(with_preexec: bool) -> None:
    async with ObservedNode(preload=["tests.servers.forking"]):
        forking = await spawn(Forking)
        command = [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"]
        listed = await Forking.run(forking, command, with_preexec=with_preexec)
        assert listed == "['0', '1', '2', '3']\n"


# --- in the program ---


PROGRAM = """
import asyncio, multiprocessing, os, pty, subprocess, sys, threading
import concurrent.futures
from noex_mp import GenServer, Node, NoexError, call, named, spawn

class Hello(GenServer):
    @call
    def hello(self) -> str:
        return "hello"

    @call
    def os_pid(self) -> int:
        return os.getpid()

def end(how):
    if how == "os._exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(3)
    raise RuntimeError("in the child")

def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def uses_the_node(hello):
    try:
        Hello.hello(hello)
    except NoexError as error:
        return type(error).__name__ + ": " + str(error).partition("\\n")[0]

SENTENCE = (
    "NoNodeError: this process was forked from one that has a node, and cannot use that node"
)

async def is_unharmed(hello):
    assert await Hello.hello(hello) == "hello"
    # What other threads tell this loop still arrives.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 5) == 1
    assert await Hello.hello(await spawn(Hello)) == "hello"
"""


def run(tmp_path: Path, loop: str, code: str, **options: object) -> str:
    """Run a program and return what it prints; it must end well."""
    script = tmp_path / "program.py"
    main = """
        if __name__ == "__main__":
            factory = asyncio.new_event_loop
            if sys.argv[1] == "uvloop":
                import uvloop
                factory = uvloop.new_event_loop
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
            print("end of", os.getpid() == PARENT)
    """
    parent = "\nPARENT = os.getpid()\n"
    script.write_text(PROGRAM + parent + textwrap.dedent(code) + textwrap.dedent(main))
    done = subprocess.run(
        [sys.executable, str(script), loop],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOEX_MP_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("end of True\n")
    assert done.stdout.count("end of") == 1
    return done.stdout.removesuffix("end of True\n")


on_each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@on_each_loop
def test_a_child_of_the_program_ends_in_any_way_and_the_node_is_unharmed(
    loop: str, tmp_path: Path
) -> None:
    code = """
    def fork(hello, how):
        pid = os.fork()
        if pid == 0:
            os.write(1, (uses_the_node(hello) + "\\n").encode())
            end(how)
        return wait_for(pid)

    async def main():
        async with Node(name="forked") as node:
            hello = await node.spawn(Hello)
            await is_unharmed(hello)
            for how in ("os._exit", "sys.exit", "raise"):
                status = fork(hello, how)
                os.write(1, f"{status}\\n".encode())
                await is_unharmed(hello)
                assert await Hello.hello(await spawn(Hello)) == "hello"
            assert os.path.exists(os.environ["XDG_RUNTIME_DIR"] + "/noex-mp/forked.sock")
    """
    said = run(tmp_path, loop, code).splitlines()
    sentence = "NoNodeError: this process was forked from one that has a node"
    assert [line.partition(",")[0] for line in said] == [
        *(sentence, "3", sentence, "3", sentence, "1"),
    ]


def test_a_child_leaves_the_with_of_its_parent_without_a_word(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    code = """
    if __name__ == "__main__":
        with Node() as node:
            hello = node.spawn(Hello)
            Hello.hello.sync(hello)
            pid = os.fork()
            if pid == 0:
                try:
                    node.stop()
                    Hello.hello.sync(hello)
                except NoexError as error:
                    print(type(error).__name__, flush=True)
                sys.exit(3)
            print(wait_for(pid), Hello.hello.sync(hello))
    """
    script.write_text(PROGRAM + textwrap.dedent(code))
    # From Python 3.12 on, Python has a word to say about any fork beside a thread.
    quiet = "-Wignore:This process:DeprecationWarning"
    done = subprocess.run(
        [sys.executable, quiet, str(script)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "NoNodeError\n3 hello\n"


@on_each_loop
def test_a_child_of_another_thread_or_a_pseudo_terminal_leaves_the_node_alone(
    loop: str, tmp_path: Path
) -> None:
    code = """
    def in_a_thread(hello):
        pid = os.fork()
        if pid == 0:
            os._exit(4 if uses_the_node(hello) == SENTENCE else 3)
        return wait_for(pid)

    def in_a_terminal(hello):
        pid, fd = pty.fork()
        if pid == 0:
            os._exit(5 if uses_the_node(hello) == SENTENCE else 6)
        status = wait_for(pid)
        os.close(fd)
        return status

    async def main():
        hello = await spawn(Hello)
        await is_unharmed(hello)
        assert await asyncio.to_thread(in_a_thread, hello) == 4
        assert in_a_terminal(hello) == 5
        assert wait_for(os.posix_spawn(sys.executable, [sys.executable, "-c", "exit(7)"], {})) == 7
        await is_unharmed(hello)
    """
    run(tmp_path, loop, code)


@on_each_loop
def test_subprocess_works_beside_a_node_and_inherits_nothing_of_it(
    loop: str, tmp_path: Path
) -> None:
    code = """
    LIST = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"

    def listed(**options):
        return subprocess.run(
            [sys.executable, "-c", LIST], stdout=subprocess.PIPE, text=True, **options
        ).stdout.strip()

    async def main():
        hello = await spawn(Hello)
        await is_unharmed(hello)
        passed = os.open(os.devnull, os.O_RDONLY)
        assert listed() == "[0, 1, 2, 3]"
        assert listed(close_fds=False) == "[0, 1, 2, 3]"
        assert listed(preexec_fn=os.getpid) == "[0, 1, 2, 3]"
        assert len(eval(listed(pass_fds=[passed]))) == 5
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "exit(7)")
        assert await process.wait() == 7
        await is_unharmed(hello)
    """
    run(tmp_path, loop, code)


@on_each_loop
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_works_beside_a_node(method: str, loop: str, tmp_path: Path) -> None:
    code = f"""
    context = multiprocessing.get_context({method!r})

    def target(queue):
        queue.put(os.getpid())

    async def main():
        hello = await spawn(Hello)
        await is_unharmed(hello)
        queue = context.SimpleQueue()
        process = context.Process(target=target, args=(queue,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert queue.get() == process.pid
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
            await is_unharmed(hello)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(executor, abs, -3) == 3
        shared = context.Array("i", 2)
        shared[0] = 1
        await is_unharmed(hello)
    """
    run(tmp_path, loop, code)


@on_each_loop
def test_a_child_may_have_a_node_of_its_own(loop: str, tmp_path: Path) -> None:
    code = """
    def child(hello):
        async def use_own():
            async with Node() as node:
                assert await Hello.hello(await node.spawn(Hello)) == "hello"
                assert uses_the_node(hello) == SENTENCE
            assert await Hello.hello(await spawn(Hello)) == "hello"
        asyncio.run(use_own())

    async def main():
        hello = await spawn(Hello)
        await is_unharmed(hello)
        process = multiprocessing.get_context("fork").Process(target=child, args=(hello,))
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        await is_unharmed(hello)
    """
    run(tmp_path, loop, code)


@on_each_loop
def test_a_child_that_lives_on_keeps_no_worker_alive(loop: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        PROGRAM
        + textwrap.dedent(
            """
            async def main():
                hello = await spawn(Hello)
                worker = await Hello.os_pid(hello)
                child = os.fork()
                if child == 0:
                    os.close(1)
                    sys.stdin.read()
                    os._exit(0)
                print(worker, child, flush=True)
                await asyncio.Event().wait()

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOEX_MP_LOOP": loop},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    worker, child = (os.pidfd_open(int(n)) for n in process.stdout.readline().split())
    process.kill()
    process.wait()
    assert wait_for_ends([worker]) == []
    assert wait_for_ends([child], timeout=0) == [child]
    process.stdin.close()
    assert wait_for_ends([child]) == []
    process.stdout.close()
    os.close(worker)
    os.close(child)
