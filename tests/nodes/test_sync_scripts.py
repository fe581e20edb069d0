"""Programs without an event loop, as a user runs them: a Python process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes.harness import REPOSITORY

pytestmark = pytest.mark.slow

HEAD = """
import threading
from noex_mp import GenServer, Node, Supervisor, call, child, named, sync

class Hello(GenServer):
    def __init__(self, name):
        self.name = name
    @call
    def hello(self):
        return f"hello {self.name}"
    def terminate(self, reason):
        print("terminated:", reason.detail, flush=True)
"""


def script(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(code)
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def run(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        # With every warning, among them those of what is still open at the end.
        [sys.executable, "-X", "dev", str(script(tmp_path, code))],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    # asyncio's debug mode is a part of it, and says what has taken long: here, that is the machine.
    done.stderr = re.sub(r"(?m)^Executing <.*> took [\d.]+ seconds\n", "", done.stderr)
    return done


def check(tmp_path: Path, code: str, expected: str) -> None:
    done = run(tmp_path, textwrap.dedent(HEAD) + textwrap.dedent(code))
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == expected


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    section = (REPOSITORY / "README.md").read_text().partition("## Without asyncio")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    done = run(tmp_path, example[1])
    assert (done.stdout, done.stderr, done.returncode) == ("13\n113\n", "", 0)


def test_the_implicit_node_is_one_for_all_threads_and_ends_with_the_interpreter(
    tmp_path: Path,
) -> None:
    check(
        tmp_path,
        """
        if __name__ == "__main__":
            refs = []
            threads = [
                threading.Thread(target=lambda: refs.append(sync.spawn(Hello, "you")))
                for _ in range(4)
            ]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert len({ref.node for ref in refs}) == 1
            # A thread that ends after the main one has come to its end still has its node.
            def late():
                threading.main_thread().join()
                print(Hello.hello.sync(refs[0]), flush=True)
            threading.Thread(target=late).start()
        """,
        "hello you\n" + "terminated: the node is stopping\n" * 4,
    )


def test_a_program_may_end_with_a_cast(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        from noex_mp import cast

        class Keeper(Hello):
            @cast
            def keep(self, data):
                print("kept", len(data), flush=True)

        if __name__ == "__main__":
            keeper = sync.spawn(Keeper, "you")
            for size in (1, 900_000, 2):
                Keeper.keep.sync(keeper, b"x" * size)
        """,
        "kept 1\nkept 900000\nkept 2\nterminated: the node is stopping\n",
    )


def test_what_an_event_loop_has_sent_outlives_the_program(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import asyncio
        from noex_mp import cast

        class Keeper(Hello):
            @cast
            def keep(self, data):
                print("kept", len(data), flush=True)

        async def send(keeper):
            for size in (1, 900_000, 2):
                await Keeper.keep(keeper, b"x" * size)

        if __name__ == "__main__":
            asyncio.run(send(sync.spawn(Keeper, "you")))
        """,
        "kept 1\nkept 900000\nkept 2\nterminated: the node is stopping\n",
    )


def test_shutdown_ends_the_implicit_node_and_the_next_spawn_starts_another(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        if __name__ == "__main__":
            for name in "ab":
                print(Hello.hello.sync(sync.spawn(Hello, name)), flush=True)
                sync.shutdown()
            sync.shutdown()
        """,
        "".join(f"hello {n}\nterminated: the node is stopping\n" for n in "ab"),
    )


def test_with_node_runs_a_tree(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        if __name__ == "__main__":
            with Node(Supervisor(child(Hello, "tree").options(name="hello"))) as node:
                print(Hello.hello.sync(named("hello", Hello)), flush=True)
            print("over")
        """,
        "hello tree\nterminated: the node is stopping\nover\n",
    )


def test_a_task_of_a_script_may_have_a_pool_for_functions_of_the_script(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        from noex_mp import ProcessPoolExecutor

        def double(value):
            return 2 * value

        def total(count):
            with ProcessPoolExecutor(max_workers=1) as inner:
                return sum(inner.map(double, range(count)))

        if __name__ == "__main__":
            with ProcessPoolExecutor(max_workers=1) as pool:
                print(pool.submit(total, 5).result())
        """,
        "20\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_call_that_waits_for_ever_leaves_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    path = script(
        tmp_path,
        textwrap.dedent(HEAD)
        + textwrap.dedent(
            """
            from noex_mp import From, NoReply

            class Silent(GenServer):
                @call
                def wait(self, sender: From) -> NoReply:
                    print("waiting", flush=True)
                    return NoReply()

            if __name__ == "__main__":
                Silent.wait.sync(sync.spawn(Silent).within(None))
            """
        ),
    )
    with subprocess.Popen(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        process.communicate(timeout=15)
        assert process.returncode != 0
