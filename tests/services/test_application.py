"""Applications on real nodes: the order of their life, and what may go wrong in it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    Application,
    BadChildSpecError,
    Health,
    InitFailedError,
    InitTimedOutError,
    MaxRestartsExceededError,
    Node,
    NoNodeError,
    Shutdown,
    Supervisor,
    applications,
    child,
    named,
    start_application,
    stop_applications,
    supervisor,
    sync,
)
from tests.nodes.observed import Whistles, whistles
from tests.nodes.scenes import Scene, scene
from tests.servers.applications import Told, application, diary, tree
from tests.servers.counters import Counter
from tests.servers.obedient import Obedient

__all__ = ["scene", "whistles"]

pytestmark = pytest.mark.slow

LIFE = ["start", "+a", "+b", "prep_stop", "-b", "-a", "stop"]


def node(tree: Supervisor | None = None) -> Node:
    return Node(tree, preload=("tests.servers.applications",))


def a() -> Any:
    return named("a", Obedient).within(10)


# --- the order of a life ------------------------------------------------------------------------


async def _as_the_tree_of_a_node(shop: Application[Told]) -> None:
    async with node(shop):
        pass


async def _among_others(shop: Application[Told]) -> None:
    async with node(Supervisor(child(Counter), shop)):
        await supervisor("/").terminate_child("shop")


async def _below_a_supervisor_that_is_stopped(shop: Application[Told]) -> None:
    async with node(Supervisor(Supervisor(shop, name="front"))):
        await supervisor("front").stop()


async def _started_and_stopped(shop: Application[Told]) -> None:
    async with node():
        running = await start_application(shop)
        assert await running.status() == "running"
        await asyncio.gather(running.stop(), running.stop())
        assert await running.status() == "stopped"
        await running.stop()


async def _started_and_stopped_with_the_node(shop: Application[Told]) -> None:
    async with node():
        await start_application(shop)


async def _started_and_stopped_with_all(shop: Application[Told]) -> None:
    async with node():
        await start_application(shop)
        await stop_applications()


@pytest.mark.parametrize(
    "live",
    [
        _as_the_tree_of_a_node,
        _among_others,
        _below_a_supervisor_that_is_stopped,
        _started_and_stopped,
        _started_and_stopped_with_the_node,
        _started_and_stopped_with_all,
    ],
)
async def test_start_comes_first_prep_stop_before_the_tree_stops_and_stop_last(
    tmp_path: Path, live: Callable[[Application[Told]], Any]
) -> None:
    await live(application(Told(str(tmp_path))))
    assert diary(tmp_path) == LIFE


async def test_an_application_without_functions_costs_no_process(tmp_path: Path) -> None:
    plain = Application("shop", tree, config=Told(str(tmp_path)))
    async with node(plain) as running:
        assert [server["path"] for server in await running.ps()] == ["/tree/a", "/tree/b"]


async def test_functions_go_by_name_or_by_value(tmp_path: Path) -> None:
    told = Told(str(tmp_path))
    # A node that pickles nothing sends names only.
    async with Node(application(told), pickle=False):
        pass
    assert diary(tmp_path) == LIFE
    heard = tmp_path / "heard"
    inner: Application[Told] = Application(
        "inner", tree, config=told, stop=lambda config: heard.write_text("stop")
    )
    async with node(inner):
        pass
    assert heard.read_text() == "stop"


async def test_an_application_is_one_value_for_many_lives(tmp_path: Path) -> None:
    shop = application(Told(str(tmp_path)))
    for _ in range(2):
        await _started_and_stopped(shop)
    assert diary(tmp_path) == LIFE * 2


# --- the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["raise", "exit"])
async def test_a_start_that_fails_starts_nothing_and_frees_the_name(
    tmp_path: Path, order: str
) -> None:
    async with node() as running:
        with pytest.raises(InitFailedError):
            await start_application(application(Told(str(tmp_path), start=order)))
        assert diary(tmp_path) == ["start"]
        assert await running.ps() == []
        await start_application(application(Told(str(tmp_path))))


@pytest.mark.parametrize("order", ["wait", "sleep"])
async def test_a_start_that_takes_too_long_is_ended(tmp_path: Path, order: str) -> None:
    async with node() as running:
        with pytest.raises(InitTimedOutError):
            await start_application(
                application(Told(str(tmp_path), start=order), start_timeout=0.2)
            )
        assert await running.ps() == []
    assert diary(tmp_path) == ["start"]


async def test_an_application_that_is_stopped_in_its_start_does_not_come_up(
    tmp_path: Path, whistles: Whistles
) -> None:
    begun = whistles()
    async with node() as running:
        shop = application(Told(str(tmp_path), start=str(begun.path)))
        starting = asyncio.ensure_future(start_application(shop))
        await begun.heard()
        with pytest.raises(AlreadyRegisteredError):
            await start_application(application(Told(str(tmp_path))))
        assert await supervisor("shop").state() == "starting"
        await supervisor("shop").stop()
        with pytest.raises(InitFailedError):
            await starting
        assert await supervisor("shop").state() == "stopped"
        assert await running.ps() == []
    assert diary(tmp_path) == ["start"]


async def test_a_tree_that_does_not_start_is_followed_by_stop(tmp_path: Path) -> None:
    (tmp_path / "b.orders").write_text("!")
    async with node():
        with pytest.raises(InitFailedError):
            await start_application(application(Told(str(tmp_path))))
    assert diary(tmp_path) == ["start", "+a", "!b", "-a", "stop"]


async def test_an_application_runs_once_in_a_node(tmp_path: Path) -> None:
    async with node():
        shop = application(Told(str(tmp_path)))
        running = await start_application(shop)
        with pytest.raises(AlreadyRegisteredError):
            await start_application(shop)
        assert await running.status() == "running"
    assert diary(tmp_path) == LIFE


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "stop_runs"),
    # What blocks its process, or ends it, takes the state along that `stop` would need.
    [("raise", True), ("wait", True), ("sleep", False), ("exit", False), ("kill", False)],
)
async def test_whatever_prep_stop_does_the_tree_stops_in_order(
    tmp_path: Path, order: str, stop_runs: bool
) -> None:
    told = Told(str(tmp_path), prep_stop=order)
    async with node(application(told, stop_timeout=3.0)) as running:
        began = time.monotonic()
        await running.stop()
        # Half of it, and what it takes to kill.
        assert time.monotonic() - began < 3.0
    assert diary(tmp_path) == (LIFE if stop_runs else LIFE[:-1])


@pytest.mark.parametrize("order", ["raise", "wait", "sleep", "exit"])
async def test_whatever_stop_does_the_application_ends(tmp_path: Path, order: str) -> None:
    async with node() as running:
        told = Told(str(tmp_path), stop=order)
        shop = await start_application(application(told, stop_timeout=0.5))
        await shop.stop()
        assert await running.ps() == []
    assert diary(tmp_path) == LIFE


async def _stopped(shop: Application[Told]) -> None:
    async with node():
        running = await start_application(shop)
        await asyncio.wait_for(running.stop(), 4)


async def _stopped_with_its_node(shop: Application[Told]) -> None:
    async with node(shop) as running:
        await asyncio.wait_for(running.stop(), 4)


async def _stopped_with_others(shop: Application[Told]) -> None:
    async with node(Supervisor(shop)) as running:
        await asyncio.wait_for(running.stop(), 4)


@pytest.mark.parametrize("live", [_stopped, _stopped_with_its_node, _stopped_with_others])
async def test_all_of_the_end_has_one_limit(
    tmp_path: Path, live: Callable[[Application[Told]], Any]
) -> None:
    # A server may take 5 s, and there are two.
    await live(application(Told(str(tmp_path), last="hang"), stop_timeout=0.5))
    assert diary(tmp_path)[:4] == LIFE[:4]


async def test_a_master_that_dies_while_the_tree_stops_holds_up_nothing(
    tmp_path: Path, scene: Scene
) -> None:
    for name in "ab":
        scene.let_ask(name)
    async with node(application(Told(str(tmp_path), last="ask"))) as running:
        [os_pid] = {each["os_pid"] for each in await running.ps() if each["id"] == "shop.master"}
        stopping = asyncio.ensure_future(running.stop())
        await scene.asked("b")
        os.kill(os_pid, signal.SIGKILL)
        for name in "ba":
            scene.tell(name, "+")
        await stopping
    # Its state went with it, and nothing was started again.
    assert diary(tmp_path) == LIFE[:-1]


async def test_a_master_that_dies_is_started_again_with_all_behind_it(tmp_path: Path) -> None:
    async with node(application(Told(str(tmp_path)))) as running:
        events = running.events()
        # Of the master and of what runs `prep_stop`.
        [os_pid] = {each["os_pid"] for each in await running.ps() if each["id"] not in "ab"}
        os.kill(os_pid, signal.SIGKILL)
        async for event in events:
            if (event.kind, event.server) == ("restarted", "shop.prep_stop"):
                break
    life = [line for line in diary(tmp_path) if line in ("start", "+a", "-a", "stop")]
    assert life == ["start", "+a", "-a", "start", "+a", "-a", "stop"]


async def test_an_application_whose_tree_gives_up_ends_and_says_so(tmp_path: Path) -> None:
    def fragile(told: Told) -> Supervisor:
        return Supervisor(*tree(told).children, max_restarts=0, name="fragile")

    async with node() as running:
        other = await start_application(Application("other", Supervisor(child(Counter))))
        shop = await start_application(application(Told(str(tmp_path)), tree=fragile))
        os.kill(await Obedient.os_pid(a()), signal.SIGKILL)
        report = await shop.wait()
        assert report is not None
        assert isinstance(report.reason, Shutdown)
        assert "more than 0 restarts" in str(report.reason.detail)
        assert await shop.status() == "stopped"
        # Nobody else minds.
        assert await other.status() == "running"
        assert [server["id"] for server in await running.ps()] == ["Counter"]
    assert diary(tmp_path) == ["start", "+a", "+b", "-b", "prep_stop", "stop"]


async def test_a_node_ends_with_its_permanent_application_and_says_who_gave_up(
    tmp_path: Path,
) -> None:
    fragile = Supervisor(*tree(Told(str(tmp_path))).children, max_restarts=0, name="fragile")
    shop = application(Told(str(tmp_path)), tree=fragile)
    running = node(applications(shop))
    async with running:
        os.kill(await Obedient.os_pid(a()), signal.SIGKILL)
        with pytest.raises(MaxRestartsExceededError) as failure:
            await running.wait()
    assert failure.value.supervisor == "fragile"
    assert diary(tmp_path)[-1] == "stop"


# --- several ------------------------------------------------------------------------------------


@asynccontextmanager
async def three(folder: Path, **last: Any) -> AsyncGenerator[Application[Any]]:
    """Run `db`, `cache` that needs it, and `web` that needs both."""

    def of(name: str, *needs: Application[Any], **told: str) -> Application[Any]:
        own = folder / name
        own.mkdir()
        server = child(Obedient, name, str(folder)).options(id=name)
        return application(
            Told(str(own), **told), name, Supervisor(server), start=None, depends_on=needs
        )

    db = of("db")
    cache = of("cache", db)
    async with node():
        yield of("web", db, cache, **last)


async def test_applications_start_after_what_they_depend_on_and_stop_before(
    tmp_path: Path,
) -> None:
    ends = ["-web", "-cache", "-db"]
    async with three(tmp_path) as web:
        await start_application(web)
        await stop_applications()
        await start_application(web)
    assert diary(tmp_path) == ["+db", "+cache", "+web", *ends] * 2


async def test_what_was_started_for_one_that_fails_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "web.orders").write_text("!")
    async with three(tmp_path) as web:
        with pytest.raises(InitFailedError):
            await start_application(web)
        assert [await supervisor(name).state() for name in ("db", "cache", "web")] == [
            *("stopped", "stopped", "stopped")
        ]
    assert diary(tmp_path) == ["+db", "+cache", "!web", "-cache", "-db"]


@pytest.mark.parametrize("last", ["db", "cache", "web"])
async def test_what_was_started_for_one_that_is_cancelled_is_stopped(
    tmp_path: Path, last: str
) -> None:
    async with three(tmp_path) as web:
        starting = asyncio.ensure_future(start_application(web))
        while await supervisor(last).state() not in ("starting", "running"):
            pass
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert [await supervisor(name).state() for name in ("db", "cache", "web")] == [
            *("stopped", "stopped", "stopped")
        ]
        await start_application(web)


async def test_what_runs_already_is_not_started_again_nor_stopped_with_one_that_fails(
    tmp_path: Path,
) -> None:
    (tmp_path / "web.orders").write_text("!")
    async with three(tmp_path) as web:
        db: Any = web.depends_on[0]
        await start_application(db)
        with pytest.raises(InitFailedError):
            await start_application(web)
        assert await supervisor("db").state() == "running"
    assert diary(tmp_path) == ["+db", "+cache", "!web", "-cache", "-db"]


async def test_one_whose_dependency_is_not_up_does_not_start(
    tmp_path: Path, whistles: Whistles
) -> None:
    begun = whistles()
    async with node():
        db = application(Told(str(tmp_path), start=str(begun.path)), "db")
        starting = asyncio.ensure_future(start_application(db))
        await begun.heard()
        with pytest.raises(AlreadyRegisteredError):
            await start_application(Application("web", Supervisor(), depends_on=(db,)))
        assert await supervisor("web").state() == "stopped"
        await supervisor("db").stop()
        with pytest.raises(InitFailedError):
            await starting


# --- without an event loop ----------------------------------------------------------------------


def test_threads_start_and_stop_applications(tmp_path: Path) -> None:
    web = application(Told(str(tmp_path)), depends_on=(Application("db", Supervisor()),))
    with node():
        running = sync.start_application(web)
        assert (running.name, running.status()) == ("shop", "running")
        assert running.config == Told(str(tmp_path))
        with pytest.raises(AlreadyRegisteredError):
            sync.start_application(web)
        assert sync.supervisor("db").is_running()
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(running.wait)
            sync.stop_applications()
            report = waiting.result()
        assert report is not None
        assert isinstance(report.reason, Shutdown)
        assert running.status() == "stopped"
        running.stop()
        assert running.wait() == report
        assert not sync.supervisor("db").is_running()
    assert diary(tmp_path) == LIFE


def test_threads_hear_why_an_application_has_ended(tmp_path: Path) -> None:
    with node():
        shop = Application("shop", Supervisor(child(Counter), max_restarts=0))
        running = sync.start_application(shop)
        os.kill(sync.current_node().ps()[0]["os_pid"], signal.SIGKILL)
        report = running.wait()
        assert report is not None
        assert isinstance(report.reason, Shutdown)
        sync.start_application(shop).stop()


def test_what_a_thread_has_started_for_one_that_fails_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.orders").write_text("!")
    db, cache = Application("db", Supervisor()), Application("cache", Supervisor())
    with node():
        sync.start_application(db)
        with pytest.raises(InitFailedError):
            sync.start_application(application(Told(str(tmp_path)), depends_on=(db, cache)))
        assert sync.supervisor("db").is_running()
        assert not sync.supervisor("cache").is_running()


async def test_in_an_event_loop_they_say_to_await() -> None:
    with pytest.raises(NoNodeError, match=r"Await noex_mp\.start_application"):
        sync.start_application(Application("db", Supervisor()))
    with pytest.raises(NoNodeError, match=r"Await noex_mp\.stop_applications"):
        sync.stop_applications()
    with pytest.raises(NoNodeError, match=r"Await noex_mp\.start_supervisor"):
        sync.start_supervisor(Supervisor())


# --- mistakes -----------------------------------------------------------------------------------


def test_every_mistake_of_an_application_is_told_at_once() -> None:
    wrong: Any = Application(
        "shop",
        7,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        config="port",
        start="main",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        stop_timeout=-1,
        restart="always",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        depends_on=[3],  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    )
    with pytest.raises(BadChildSpecError) as failure:
        Node(wrong).wire_tree()
    text = str(failure.value)
    assert "6 mistakes" in text
    for option in ("tree", "config", "start", "stop_timeout", "restart", "depends_on"):
        assert f"expected {option} to" in text


def test_a_function_that_returns_no_tree_is_told() -> None:
    wrong: Any = Application("shop", lambda config: 7)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadChildSpecError, match="expected the tree of application shop"):
        Node(wrong).wire_tree()


# --- health -------------------------------------------------------------------------------------


async def test_a_node_is_ready_while_all_its_applications_run(
    tmp_path: Path, whistles: Whistles
) -> None:
    begun = whistles()
    folders = [tmp_path / name for name in ("shop", "late")]
    for folder in folders:
        folder.mkdir()
    plain: Application[Any] = Application("plain", Supervisor(child(Counter)))
    async with node(plain) as running:
        assert (await running.health()) == Health(True, "running", {"plain": "running"})
        told = Told(str(folders[1]), start=str(begun.path))
        starting = asyncio.ensure_future(start_application(application(told, "late")))
        await begun.heard()
        assert (await running.health()) == Health(
            False,
            "running",
            {"plain": "running", "late": "starting"},
            ("application late is starting",),
        )
        await supervisor("late").stop()
        with pytest.raises(InitFailedError):
            await starting
        assert (await running.health()).ready


async def test_a_reload_runs_no_function_of_an_application(tmp_path: Path) -> None:
    # Its tree runs on: to prepare its stop, or to clean up behind it, would be wrong.
    async with node(application(Told(str(tmp_path)))) as running:
        done = await running.reload()
        assert (done.replaced, done.kept) == (2, ("shop.master", "shop.prep_stop"))
        assert diary(tmp_path) == ["start", "+a", "+b", "-a", "+a", "-b", "+b"]
        assert (await running.health()).ready
    assert diary(tmp_path)[-4:] == LIFE[-4:]


async def test_a_crash_makes_no_node_unready(tmp_path: Path) -> None:
    async with node(application(Told(str(tmp_path)))) as running:
        events = running.events()
        os.kill(await Obedient.os_pid(a()), signal.SIGKILL)
        async for event in events:
            assert (await running.health()).ready
            if event.kind == "restarted":
                break
