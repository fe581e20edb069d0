"""The implicit node and `__main__` scripts, as a user runs them: a Python process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes.harness import REPOSITORY

pytestmark = pytest.mark.slow

HEAD = """
import asyncio
from noex_mp import GenServer, Node, call, shutdown, spawn, stop
"""
SERVER = """
class Wrong(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

class Hello(GenServer, expected=(Wrong,)):
    def __init__(self, name):
        self.name = name
    @call
    def hello(self):
        return f"hello {self.name}"
    @call
    def refuse(self):
        raise Wrong(1, 2)
    @call
    def same(self, value):
        return isinstance(value, Value)
    @call
    def make(self):
        return Value(3)
    def terminate(self, reason):
        print("terminated:", reason.detail, flush=True)

class Value:
    def __init__(self, n):
        self.n = n
"""


def run(
    tmp_path: Path, code: str, *, loop: str = "uvloop", stdin: bool = False
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    text = textwrap.dedent(HEAD + SERVER) + textwrap.dedent(code)
    script.write_text(text)
    return subprocess.run(
        [sys.executable] if stdin else [sys.executable, str(script)],
        input=text if stdin else "",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOEX_MP_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


MAIN = """
async def main():
    hello = await spawn(Hello, "you")
    print(await Hello.hello(hello))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_implicit_node_starts_and_ends_with_the_loop(loop: str, tmp_path: Path) -> None:
    done = run(tmp_path, MAIN, loop=loop)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "hello you\nterminated: the node is stopping\n"


def test_each_loop_has_an_implicit_node_of_its_own(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            hello = await spawn(Hello, "you")
            other = await spawn(Hello, "too")
            assert hello.node == other.node
            return hello.node

        if __name__ == "__main__":
            assert asyncio.run(main()) != asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_shutdown_ends_the_implicit_node_and_the_next_spawn_starts_another(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            for name in "ab":
                print(await Hello.hello(await spawn(Hello, name)))
                await shutdown()
            await shutdown()

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    terminated = "terminated: the node is stopping\n"
    assert done.stdout == f"hello a\n{terminated}hello b\n{terminated}"


def test_first_spawns_at_once_share_the_implicit_node(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            refs = await asyncio.gather(*(spawn(Hello, str(n)) for n in range(5)))
            assert len({ref.node for ref in refs}) == 1
            print(await asyncio.gather(*(Hello.hello(ref) for ref in refs)))
            await asyncio.gather(*(stop(ref) for ref in refs))

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_classes_of_the_script_are_the_same_on_both_sides(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            hello = await spawn(Hello, "you")
            try:
                await Hello.refuse(hello)
            except Wrong as error:
                print("refused", error.b)
            print(await Hello.same(hello, Value(3)))
            print(type(await Hello.make(hello)) is Value)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("refused 2\nTrue\nTrue\n")


def test_a_script_that_just_ends_stops_its_servers(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        if __name__ == "__main__":
            loop = asyncio.new_event_loop()
            hello = loop.run_until_complete(spawn(Hello, "you"))
            print("over", flush=True)
        """,
    )
    assert done.returncode == 0
    assert done.stdout == "over\nterminated: the node is stopping\n"


def test_a_script_that_fails_stops_its_servers(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            await spawn(Hello, "you")
            raise RuntimeError("oh no")

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert done.returncode == 1
    assert "terminated: the node is stopping\n" in done.stdout
    assert "RuntimeError: oh no" in done.stderr


def test_a_script_without_a_main_guard_gets_a_sentence(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        async def main():
            await spawn(Hello, "you")
        asyncio.run(main())
        """,
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_script_without_a_file_gets_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, MAIN, stdin=True)
    assert done.returncode == 1
    assert "which a worker process cannot import" in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_a_tree_of_the_scripts_own_classes_runs(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from noex_mp import Supervisor, child, named

        async def main():
            async with Node(Supervisor(child(Hello, "tree").options(name="hello"))):
                print(await Hello.hello(named("hello", Hello)))

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("hello tree\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_script_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + SERVER
        + textwrap.dedent(
            """
            async def main():
                await spawn(Hello, "you")
                print("ready", flush=True)
                await asyncio.Event().wait()

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=15)
    assert process.returncode != 0


def test_a_program_that_forks_leaves_the_node_alone(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os

        async def main():
            hello = await spawn(Hello, "you")
            await Hello.hello(hello)
            pid = os.fork()
            if pid == 0:
                try:
                    Hello.hello(hello)
                except Exception as error:
                    print(type(error).__name__, flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print(await Hello.hello(hello), flush=True)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("NoNodeError\nhello you\n")
