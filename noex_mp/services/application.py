"""`Application`: a tree with a name, a configuration, and what is to be done around it.

```python
def tree(config: ShopConfig) -> Supervisor:
    return Supervisor(child(Orders, path=config.database).options(name="orders"))

shop = Application("shop", tree, config=ShopConfig, start=migrate, prep_stop=close_the_doors)
```

`noex-mp run app:shop` runs it; `await start_application(shop)` starts it on a node that runs.

An application is a supervisor like any other, so it may also stand in a tree. Its children are the
master, which runs `start` and `stop`; the tree; and, behind it, the server that runs `prep_stop`.
Supervision's own order does the rest: `start` comes before the tree, `prep_stop` before the tree
stops, `stop` after it, whoever ends the application, and however.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeGuard, get_args

from typing_extensions import TypeVar

from noex_mp import (
    BadChildSpecError,
    ChildSpec,
    DynamicSupervisor,
    PartitionSupervisor,
    Supervisor,
    child,
)
from noex_mp.services.config import Sources, read_config
from noex_mp.services.hooks import Hook, Master, PrepStop, by_name

__all__ = ["Application", "Restart", "Tree", "changed", "is_application"]

C = TypeVar("C", default=Any)
T = TypeVar("T")

Tree = Supervisor | DynamicSupervisor | PartitionSupervisor

Restart = Literal["permanent", "transient", "temporary"]


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Application(Supervisor, Generic[C]):
    """A tree with a name, a configuration, and what is to be done around its life.

    Attributes:
        name: What it is called: its name in the node, the table of the file that holds its
            configuration (`[shop]`), the beginning of its variables (`SHOP_`).
        tree: A supervisor, or a function that takes the configuration and returns one.
        config: A dataclass, to be filled from file, environment and arguments; or an instance.
        start: Takes the configuration, before the tree starts; what it returns is the state. If it
            raises, the application does not start.
        prep_stop: Takes the state, before the tree stops. Whatever it does, the tree stops.
        stop: Takes the state, after the tree has stopped.
        depends_on: Applications, or names of some, that start before it and stop after it.
        start_timeout: How long `start` may take, in seconds; None means no limit. The servers of
            the tree have an `init_timeout` each.
        stop_timeout: How long all of its end may take, in seconds; what is left then is killed.
            `prep_stop` may take half of it. None means no limit.
        restart: What its end means for others. Run by `noex-mp run`, a permanent one ends the node
            with it. In a tree of your own, as for any supervisor.
    """

    name: str  # pyright: ignore[reportGeneralTypeIssues]
    tree: Tree | Callable[[C], Tree]
    config: type[C] | C | None
    start: Hook | None
    prep_stop: Hook | None
    stop: Hook | None
    depends_on: tuple[Application[Any] | str, ...]
    start_timeout: float | None
    stop_timeout: float | None

    def __init__(
        self,
        name: str,
        tree: Tree | Callable[[C], Tree],
        *,
        config: type[C] | C | None = None,
        start: Hook | None = None,
        prep_stop: Hook | None = None,
        stop: Hook | None = None,
        depends_on: Sequence[Application[Any] | str] = (),
        start_timeout: float | None = 30.0,
        stop_timeout: float | None = 30.0,
        restart: Restart = "permanent",
    ) -> None:
        values: dict[str, Any] = {
            **{each.name: each.default for each in fields(Supervisor)},
            "strategy": "rest_for_one",
            # Its tree is not started again when it has ended: see `children`.
            "auto_shutdown": "any_significant",
            "id": name,
            "name": name,
            "tree": tree,
            "config": config,
            "start": start,
            "prep_stop": prep_stop,
            "stop": stop,
            "depends_on": tuple(depends_on),
            "start_timeout": start_timeout,
            "stop_timeout": stop_timeout,
            "shutdown": stop_timeout,
            "restart": restart,
        }
        # Made by `children` when somebody asks for them.
        del values["children"]
        for key, value in values.items():
            object.__setattr__(self, key, value)

    # Each is itself: what it is made of may be anything, and two of one name are a mistake.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Application({self.name!r})"

    @cached_property  # type: ignore[misc]
    def children(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The master, the tree, and what runs `prep_stop`.

        Raises:
            BadChildSpecError: The application is described wrongly; the text lists every mistake.
            BadConfigError: Its configuration is wrong.
        """
        _refuse_if_wrong(self)
        config = self.configuration()
        return tuple(self._around(config, self._tree_of(config)))

    def _around(self, config: C | None, tree: Tree) -> Iterator[ChildSpec[Any] | Tree]:
        # Their ids say whose they are: a log tells of several applications.
        # One process for both functions: `prep_stop` takes what `start` has returned.
        placement = f"application {self.name}" if self.prep_stop else None
        if self.start or self.prep_stop or self.stop:
            start, stop = by_name(self.start), by_name(self.stop)
            yield child(Master, self.name, config, start, stop).options(
                id=f"{self.name}.master",
                init_timeout=self.start_timeout,
                shutdown=self.stop_timeout,
                placement=placement,
            )
        # As in OTP, the end of the tree is the end of the application: what could be restarted
        # has been, within the tree's own limits.
        yield changed(tree, id=tree.id or "tree", restart="transient", significant=True)
        if self.prep_stop:
            limit = None if self.stop_timeout is None else self.stop_timeout / 2
            prep_stop = by_name(self.prep_stop) or self.prep_stop
            yield child(PrepStop, self.name, prep_stop).options(
                id=f"{self.name}.prep_stop", shutdown=limit, placement=placement
            )

    def _tree_of(self, config: C | None) -> Tree:
        tree: Any = self.tree
        if not isinstance(tree, Tree):
            tree = tree(config)
        if isinstance(tree, Tree):
            return tree
        raise BadChildSpecError(
            f"expected the tree of application {self.name} to be a Supervisor, got {tree!r:.80}\n"
            f"Let its function return Supervisor(child(YourServer))."
        )

    # --- configuration -----------------------------------------------------------------

    def configuration(self) -> C | None:
        """Return the configuration: what it was given, else what the environment says.

        Raises:
            BadConfigError: It is wrong; the text lists every mistake.
        """
        if isinstance(self.config, type):
            cls: type[C] = self.config
            return read_config(cls, self.name, Sources(environ=os.environ))
        return self.config

    def configured(
        self,
        config: C | None = None,
        *,
        file: str | Path | None = None,
        arguments: Sequence[str] = (),
    ) -> Application[C]:
        """Return the same application with its configuration.

        Args:
            config: The configuration itself; nothing else is read then.
            file: A TOML file with a table named as the application.
            arguments: As `port=9000`; stronger than the environment, which is stronger than the
                file.

        Raises:
            BadConfigError: It is wrong; the text lists every mistake.

        Example:
            ```python
            async with Node(shop.configured(file="shop.toml", arguments=sys.argv[1:])):
            ```
        """
        if config is not None:
            return changed(self, config=config)
        from noex_mp.services.settings import configured

        return configured(self, file, arguments)


def is_application(value: object) -> TypeGuard[Application[Any]]:
    """Return whether something is an application."""
    return isinstance(value, Application)


def changed(entry: T, **changes: Any) -> T:
    """Return a copy of an application or a supervisor that differs in some attributes."""
    made = copy.copy(entry)
    if isinstance(entry, Application):
        # What was made of its configuration before.
        vars(made).pop("children", None)
    for key, value in changes.items():
        # As in its own constructor: it is frozen.
        object.__setattr__(made, key, value)
    return made


def _refuse_if_wrong(application: Application[Any]) -> None:
    mistakes = list(_mistakes(application))
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise BadChildSpecError("\n".join([f"{application!r} has {count}", *mistakes]))


def _mistakes(application: Application[Any]) -> Iterator[str]:
    tree: object = application.tree
    if not isinstance(tree, Tree) and not callable(tree):
        yield f"expected tree to be a Supervisor, or a function that returns one, got {tree!r:.60}"
    config: object = application.config
    if config is not None and not is_dataclass(config):
        yield f"expected config to be a dataclass, or an instance of one, got {config!r:.60}"
    for option in ("start", "prep_stop", "stop"):
        hook: object = getattr(application, option)
        if hook is not None and not callable(hook):
            yield f"expected {option} to be a function, got {hook!r:.60}"
    for option in ("start_timeout", "stop_timeout"):
        limit: object = getattr(application, option)
        is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if limit is not None and not (is_number and 0 < float(str(limit)) < math.inf):
            yield f"expected {option} to be seconds > 0, or None for no limit, got {limit!r:.60}"
    if application.restart not in get_args(Restart):
        choices = " or ".join(map(repr, get_args(Restart)))
        yield f"expected restart to be {choices}, got {application.restart!r:.60}"
    others: tuple[object, ...] = application.depends_on
    for other in others:
        if not isinstance(other, str) and not is_application(other):
            yield f"expected depends_on to hold applications or their names, got {other!r:.60}"
