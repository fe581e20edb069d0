"""The implicit node and `__main__` scripts, as a user runs them: a Python process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest

from tests.processes.harness import REPOSITORY

pytestmark = pytest.mark.slow

HEAD = """
import asyncio
from noex_mp import GenServer, Node, ServerExitedError, call, register_type, shutdown, spawn, stop
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


def run(tmp_path: Path, code: str, *, loop: str = "uvloop") -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(HEAD + SERVER) + textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(script)],
        input="",
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


def test_a_crash_names_a_class_of_the_script_as_the_script_does(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        class Failing(GenServer):
            @call
            def fail(self):
                raise Wrong("on purpose", 2)

        async def main():
            failing = await spawn(Failing)
            try:
                await Failing.fail(failing)
            except ServerExitedError as error:
                print(error.report.reason.error, isinstance(error.__cause__, Wrong))
                print(error.report.traceback.splitlines()[-1])

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert done.stdout.splitlines() == ["__main__.Wrong True", "__main__.Wrong: on purpose"]


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


def test_a_node_that_stops_while_workers_import_the_script_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    done = run(
        tmp_path,
        """
        if __name__ != "__main__":
            open("gate").read()

        async def main():
            async with Node():
                spawned = asyncio.create_task(spawn(Hello, "you"))
                gate = await asyncio.to_thread(open, "gate", "w")
            try:
                await spawned
            except NodeDownError as error:
                print(error)

        if __name__ == "__main__":
            from noex_mp import NodeDownError
            asyncio.run(main())
        """,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "the node is stopping, and starts nothing any more\n"


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


# --- how a program is started ----------------------------------------------------------------

PROGRAM = f"""
{HEAD}{SERVER}
import logging
from dataclasses import dataclass
from enum import Enum

class Colour(Enum):
    RED = 1

@dataclass
class Order:
    what: str
    colour: Colour

@dataclass
class Ask:
    order: Order

class Shop(GenServer, expected=(Wrong,)):
    def handle_call(self, request, sender):
        from noex_mp import Reply
        assert type(request) is Ask, request
        return Reply(request.order)
    @call
    def take(self, order, function):
        assert isinstance(order, Order) and order.colour is Colour.RED
        return function(order)
    @call
    def crash(self):
        raise Broken("oh")

class Broken(Exception):
    pass

class Sealed:
    def __init__(self, content):
        self.content = content
    def __reduce__(self):
        raise TypeError("no pickle")

register_type(Sealed, lambda sealed: sealed.content, lambda content: Sealed(content))

def twice(order):
    return [order, order]

def seal(order):
    return Sealed(order)

class Unsealing(GenServer):
    @call
    def content(self, sealed):
        return sealed.content

def what(order):
    return order.what, type(order) is Order

async def main():
    # What crashes here is meant to; all else on standard error is a surprise.
    logging.getLogger("noex_mp").disabled = True
    hello = await spawn(Hello, "you")
    shop = await spawn(Shop)
    try:
        await Hello.refuse(hello)
    except Wrong as error:
        print("refused", error.b)
    order = Order("tea", Colour.RED)
    reply = await shop.call(Ask(order))
    print(reply == order and type(reply) is Order and reply.colour is Colour.RED)
    print(await Shop.take(shop, order, twice) == [order, order])
    print(await Shop.take(shop, order, what))
    sealed = await Shop.take(shop, order, seal)
    unsealing = await spawn(Unsealing)
    print(type(sealed) is Sealed, await Unsealing.content(unsealing, sealed) == order)
    try:
        await Shop.crash(shop)
    except Exception as error:
        print(type(error).__name__, isinstance(error.__cause__, Broken))
    print(await Shop.take(shop, order, twice) == [order, order])

if __name__ == "__main__":
    asyncio.run(main())
"""
SAYS = "refused 2\nTrue\nTrue\n('tea', True)\nTrue True\nServerExitedError True\nTrue\n"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def start(
    cwd: Path, *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python like a user, in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


RELATIVE = PROGRAM.replace("class Hello", "from .names import NAME\nclass Hello")
PACKAGE = {"shop/__init__.py": "", "shop/names.py": "NAME = 1"}
WAYS: dict[str, tuple[dict[str, str], list[str]]] = {
    "script": ({"script.py": PROGRAM}, ["script.py"]),
    "script elsewhere": ({"far/script.py": PROGRAM}, ["far/script.py"]),
    "script without an ending": ({"script": PROGRAM}, ["script"]),
    "-m module": ({"script.py": PROGRAM}, ["-m", "script"]),
    "-m package.module": ({**PACKAGE, "shop/app.py": RELATIVE}, ["-m", "shop.app"]),
    "-m package": ({**PACKAGE, "shop/__main__.py": RELATIVE}, ["-m", "shop"]),
    "folder": ({"app/__main__.py": PROGRAM}, ["app"]),
    "-c": ({}, ["-c", PROGRAM]),
    "-c without a guard": ({}, ["-c", PROGRAM.replace('"__main__"', "__name__")]),
    "-m package without a guard": (
        {**PACKAGE, "shop/__main__.py": RELATIVE.replace('"__main__"', "__name__")},
        ["-m", "shop"],
    ),
    "-i": ({"script.py": PROGRAM}, ["-i", "script.py"]),
    "cProfile": ({"script.py": PROGRAM}, ["-m", "cProfile", "-o", "profile", "script.py"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_a_program_is_started_its_classes_and_functions_work(
    way: str, tmp_path: Path
) -> None:
    files, arguments = WAYS[way]
    write(tmp_path, files)
    done = start(tmp_path, *arguments)
    assert done.stderr.replace(">>> ", "").strip() == ""
    assert done.stdout.startswith(SAYS)
    assert done.returncode == 0


def test_a_program_works_in_the_debugger(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": PROGRAM})
    done = start(tmp_path, "-m", "pdb", "-c", "continue", "script.py")
    assert SAYS in done.stdout


def test_a_program_from_standard_input_works(tmp_path: Path) -> None:
    done = start(tmp_path, stdin=PROGRAM)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(SAYS)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_program_without_any_stream_works(loop: str, tmp_path: Path) -> None:
    # Without a loop of its own, whose descriptors would take these numbers.
    program = """
        if __name__ == "__main__":
            from noex_mp import sync
            with open("said", "w") as said:
                said.write(Hello.hello.sync(sync.spawn(Hello, "you")))
    """
    write(tmp_path, {"script.py": HEAD + SERVER + textwrap.dedent(program)})
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOEX_MP_LOOP": loop},
        timeout=20,
        check=False,
    )
    assert (done.returncode, (tmp_path / "said").read_text()) == (0, "hello you")


def test_an_archive_works(tmp_path: Path) -> None:
    write(tmp_path, {"app/__main__.py": "from pool import run\nrun()", "app/pool.py": PROGRAM})
    (tmp_path / "app/pool.py").write_text(f"{PROGRAM}\ndef run():\n    asyncio.run(main())\n")
    zipapp.create_archive(tmp_path / "app", tmp_path / "app.pyz")
    done = start(tmp_path, "app.pyz")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(SAYS)


def test_a_session_at_the_prompt_works(tmp_path: Path) -> None:
    lines = f"{HEAD}{SERVER}".replace("\n    @", "\n    @").split("\nclass ")
    session = "\n\nclass ".join(lines) + textwrap.dedent(
        """

        async def ask():
            hello = await spawn(Hello, "you")
            return await Hello.hello(hello), type(await Hello.make(hello)) is Value

        asyncio.run(ask())
        """
    )
    done = start(tmp_path, "-i", "-q", stdin=session)
    assert "('hello you', True)" in done.stdout, done.stderr


def test_a_server_from_elsewhere_takes_values_of_the_script(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "lib.py": f"{HEAD}class Echo(GenServer):\n    @call\n    def echo(self, value):\n"
            f"        return value\n",
            "script.py": textwrap.dedent(
                f"""
                {HEAD.replace(chr(10), chr(10) + " " * 16)}
                from dataclasses import dataclass
                from lib import Echo

                @dataclass
                class Value:
                    n: int

                async def main():
                    async with Node():
                        value = await Echo.echo(await spawn(Echo), Value(3))
                        print(value, type(value) is Value)

                if __name__ == "__main__":
                    asyncio.run(main())
                """
            ),
        },
    )
    done = start(tmp_path, "script.py")
    assert (done.stderr, done.stdout) == ("", "Value(n=3) True\n")


# --- what is wrong with a script ---------------------------------------------------------------

UNGUARDED = f"""
{HEAD}{SERVER}
async def main():
    await spawn(Hello, "you")
asyncio.run(main())
"""
GUARDED = 'if __name__ == "__main__":'


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("arguments", [["script.py"], ["-m", "script"]])
def test_a_missing_main_guard_gets_one_sentence(
    arguments: list[str], loop: str, tmp_path: Path
) -> None:
    write(tmp_path, {"script.py": UNGUARDED})
    done = start(tmp_path, *arguments, NOEX_MP_LOOP=loop)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith(
        f"PreloadError: your script starts a node, and does so again when a worker process "
        f"imports it\nPut what it does under: {GUARDED}\n"
    )


def test_a_missing_guard_in_an_imported_module_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"jobs.py": UNGUARDED, "script.py": "import jobs\n"})
    done = start(tmp_path, "script.py")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = UNGUARDED.count("\n")
    assert f"jobs.py, line {last}, starts a node while the module is imported" in done.stderr
    assert GUARDED in done.stderr


FAILING = f"""
{HEAD}{SERVER}
if __name__ != "__main__":
    1 / 0

async def main():
    for _ in range(2):
        try:
            await spawn(Hello, "you")
        except Exception as error:
            print(type(error).__name__, error)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_what_a_script_raises_in_the_worker_fails_the_spawn_with_its_traceback(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"script.py": FAILING})
    done = start(tmp_path, "script.py")
    assert (done.stderr, done.returncode) == ("", 0)
    first, second = done.stdout.split("PreloadError ")[1:]
    assert first == second
    assert first.startswith("it cannot be imported by a worker process:\nTraceback")
    assert "script.py" in first
    assert "ZeroDivisionError" in first
    assert "noex_mp" not in first


def test_a_script_that_cannot_be_imported_harms_no_other_server(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "lib.py": HEAD + SERVER.replace("Hello", "Other"),
            "script.py": FAILING.replace(
                "async def main():\n",
                textwrap.dedent(
                    """
                    async def main():
                        import os, signal
                        from lib import Other
                        async with Node():
                            other = await spawn(Other, "there")
                            await try_it()
                            print(await Other.hello(await spawn(Other, "again")))
                            print(await Other.hello(other))

                    async def try_it():
                    """
                ),
            ),
        },
    )
    done = start(tmp_path, "script.py")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.count("PreloadError") == 2
    assert "hello again\nhello there\n" in done.stdout


def test_a_class_below_the_guard_is_told_where_it_belongs(tmp_path: Path) -> None:
    program = f"""
import asyncio
if __name__ == "__main__":
    {HEAD.strip().replace(chr(10), chr(10) + "    ")}
    class Hidden(GenServer):
        pass
    asyncio.run(spawn(Hidden))
"""
    write(tmp_path, {"script.py": program})
    done = start(tmp_path, "script.py")
    assert done.returncode == 1
    assert "finds no Hidden in it" in done.stderr
    assert GUARDED in done.stderr


def test_a_missing_guard_is_told_also_by_a_pool(tmp_path: Path) -> None:
    program = """
import asyncio
from noex_mp import Pool
def double(value):
    return 2 * value
async def main():
    async with Pool(size=1) as pool:
        await pool.run(double, 1)
asyncio.run(main())
"""
    write(tmp_path, {"script.py": program})
    done = start(tmp_path, "script.py")
    assert done.returncode == 1
    assert "imports your script gets no further: RuntimeError: asyncio.run()" in done.stderr
    assert GUARDED in done.stderr


JOBS = """
import os
print("imported by", "a worker" if "NOEX_MP_NODE" in os.environ else "the program")
def pid(_):
    return os.getpid()
"""
POOL = """
import asyncio
import jobs
from noex_mp import Pool
async def main():
    async with Pool(size=2, max_tasks_per_child=1) as pool:
        pids = await pool.map(jobs.pid, range(6), chunksize=1)
        # In one piece: what a worker prints may come in the middle of two.
        print(f"{len(set(pids))} processes\\n", end="")
"""


GUARDED_POOL = f'{POOL}\nif __name__ == "__main__":\n    asyncio.run(main())\n'


def test_the_processes_of_a_pool_have_what_the_script_imports(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": GUARDED_POOL, "jobs.py": JOBS})
    done = start(tmp_path, "script.py")
    assert (done.stderr, done.returncode) == ("", 0)
    assert sorted(done.stdout.splitlines()) == [
        "6 processes",
        "imported by a worker",
        "imported by the program",
    ]


def test_a_script_without_a_guard_is_not_run_again_for_a_pool(tmp_path: Path) -> None:
    once = f'{POOL}\nprint("once")\nasyncio.run(main())\n'
    write(tmp_path, {"script.py": once, "jobs.py": JOBS})
    done = start(tmp_path, "script.py")
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.splitlines()
    assert (lines.count("once"), lines.count("6 processes")) == (1, 1)


TOGETHER = """
import asyncio
import threading
import jobs
from hello import Hello
from noex_mp import Pool, spawn
threading.Thread(target=threading.Event().wait, daemon=True).start()
async def main():
    one, other = Pool(size=1), Pool(size=1)
    _, _, hello = await asyncio.gather(one.start(), other.start(), spawn(Hello))
    assert await one.run(jobs.pid, 0) != await other.run(jobs.pid, 0)
    nodes = {ref.node for ref in (hello, *one.dispatcher.refs, *other.dispatcher.refs)}
    print(f"{len(nodes)} node\\n", end="")
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_pools_that_start_together_share_a_node_without_the_script(tmp_path: Path) -> None:
    hello = "from noex_mp import GenServer\nclass Hello(GenServer):\n    pass\n"
    write(tmp_path, {"script.py": TOGETHER, "jobs.py": JOBS, "hello.py": hello})
    done = start(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert "1 node" in done.stdout.splitlines()
    assert done.stderr.count("the script is not preloaded for the pool: ") == 1
    assert "left a thread running" in done.stderr


def test_a_node_without_pickle_sends_no_code(tmp_path: Path) -> None:
    program = f"""
{HEAD}{SERVER}
async def main():
    async with Node(pickle=False):
        await spawn(Hello, "you")
asyncio.run(main())
"""
    done = start(tmp_path, "-c", program)
    assert done.returncode == 1
    assert "NotImportableError: a worker process cannot import __main__:Hello" in done.stderr
    assert "Node(pickle=False)" in done.stderr


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
