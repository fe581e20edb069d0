"""Specs in, or one error that lists every mistake, each with its place and its remedy.

```text
the supervision tree has 2 mistakes
/root/1 (Counter): expected shutdown to be seconds, None or "brutal_kill", got 'infinity'
    for no limit, write shutdown=None
/root/2/1: expected a child, got the class Counter
    write child(Counter)
```

The number is the child's place in its supervisor, from 1; `/root/2/1` is the first child of the
second. Whatever stands in a spec is looked
at as an `object`: not everybody runs a type checker. Promise: no I/O.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard, get_args

from noex_mp.core.memory_sizes import SMALLEST_LIMIT, in_bytes
from noex_mp.core.specs import (
    OPTIONS,
    AutoShutdown,
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    OnOom,
    PartitionSupervisor,
    Restart,
    ServerPool,
    Start,
    Strategy,
    Supervisor,
    Tree,
    WhenFull,
)
from noex_mp.errors import BadChildSpecError

__all__ = ["Mistake", "find_child_mistakes", "find_mistakes", "validate", "validate_child"]


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a spec.

    Attributes:
        where: The place, for example `/root/2 (Counter)`.
        problem: What was expected, and what came.
        remedy: What to write instead.
    """

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        remedy = self.remedy.replace("\n", "\n    ")
        return f"{self.where}: {self.problem}\n    {remedy}"


# A mistake whose place is not known yet: problem and remedy.
_Wrong: TypeAlias = tuple[str, str]

_RESTARTS: Final[tuple[str, ...]] = get_args(Restart)
_STARTS: Final[tuple[str, ...]] = get_args(Start)
_ON_OOM: Final[tuple[str, ...]] = get_args(OnOom)
_WHEN_FULL: Final[tuple[str, ...]] = get_args(WhenFull)
_STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)
_AUTO_SHUTDOWNS: Final[tuple[str, ...]] = get_args(AutoShutdown)
_SUPERVISORS: Final = (Supervisor, DynamicSupervisor, PartitionSupervisor)
# How people from elsewhere write "no limit"; here it is None.
_NO_LIMIT: Final = {"infinity", ":infinity", "infinite", "inf", "never", "none"}


def validate(tree: Tree, cpus: frozenset[int] | None = None) -> None:
    """Check a whole tree.

    Args:
        tree: The tree.
        cpus: Those that there are; None if nobody knows.

    Raises:
        BadChildSpecError: Something is wrong; the text lists every mistake.
    """
    _raise_if_any("the supervision tree", list(find_mistakes(tree, cpus)))


def validate_child(
    spec: object, cpus: frozenset[int] | None = None, auto_shutdown: AutoShutdown = "never"
) -> None:
    """Check one entry that is started on its own, as `spawn` and `start_child` do.

    Args:
        spec: A child, or a supervisor.
        cpus: Those that there are; None if nobody knows.
        auto_shutdown: That of the supervisor under which it is to run.

    Raises:
        BadChildSpecError: Something is wrong; the text lists every mistake.
    """
    place = "child"
    mistakes = list(_find_entry_mistakes(spec, place, cpus, auto_shutdown))
    entries = list(_entries(spec, place))
    mistakes += [*_duplicate_names(entries), *_conflicts(entries)]
    _raise_if_any("the child", mistakes)


def _raise_if_any(what: str, mistakes: list[Mistake]) -> None:
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise BadChildSpecError("\n".join([f"{what} has {count}", *map(str, mistakes)]))


def find_mistakes(tree: object, cpus: frozenset[int] | None = None) -> Iterator[Mistake]:
    """Yield every mistake of a tree: each entry's own, then what several have in common."""
    if not _is_supervisor(tree):
        remedy = "write Supervisor(child(YourServer), ...)"
        yield Mistake("/", f"expected a supervisor, got {_described(tree)}", remedy)
        return
    root = f"/{tree.id}" if _is_plain(tree.id) else "/root"
    yield from _find_supervisor_mistakes(tree, root, "never", cpus, is_top=True)
    entries = list(_entries(tree, root))
    yield from _duplicate_names(entries)
    yield from _conflicts(entries)


def _find_entry_mistakes(
    entry: object, place: str, cpus: frozenset[int] | None, auto_shutdown: object
) -> Iterator[Mistake]:
    if _is_supervisor(entry):
        yield from _find_supervisor_mistakes(entry, place, auto_shutdown, cpus)
    else:
        yield from find_child_mistakes(entry, place, cpus, auto_shutdown)


def find_child_mistakes(
    entry: object,
    place: str,
    cpus: frozenset[int] | None = None,
    auto_shutdown: object = "never",
) -> Iterator[Mistake]:
    """Yield every mistake that one server of a supervisor has on its own."""
    if not _is_child(entry):
        problem = f"expected a child, got {_described(entry)}"
        yield Mistake(place, problem, _how_to_be_a_child(entry))
        return
    for problem, remedy in _child_wrongs(entry, cpus):
        yield Mistake(_where(place, entry), problem, remedy)
    for problem, remedy in _significance_wrongs(entry, auto_shutdown):
        yield Mistake(_where(place, entry), problem, remedy)


def _find_supervisor_mistakes(
    tree: Tree,
    place: str,
    auto_shutdown: object,
    cpus: frozenset[int] | None,
    *,
    is_top: bool = False,
) -> Iterator[Mistake]:
    for problem, remedy in _supervisor_wrongs(tree):
        yield Mistake(place, problem, remedy)
    if not is_top:
        for problem, remedy in _significance_wrongs(tree, auto_shutdown):
            yield Mistake(place, problem, remedy)
    inner: object = getattr(tree, "auto_shutdown", "never")
    find = find_child_mistakes if isinstance(tree, PartitionSupervisor) else _find_entry_mistakes
    for where, entry in _children(tree, place):
        yield from find(entry, where, cpus, inner)
    if isinstance(tree, Supervisor):
        yield from _duplicate_ids(tree, place)


def _children(tree: Tree, place: str) -> Iterator[tuple[str, object]]:
    """Yield what stands in a supervisor, each with its place."""
    if isinstance(tree, Supervisor):
        yield from ((f"{place}/{i}", entry) for i, entry in enumerate(tree.children, start=1))
    elif isinstance(tree, PartitionSupervisor):
        yield f"{place}/child", tree.child
    elif tree.template is not None:
        yield f"{place}/template", tree.template


def _entries(entry: object, place: str) -> Iterator[tuple[str, object]]:
    """Yield an entry and all that stands in it, each with its place."""
    yield place, entry
    if _is_supervisor(entry):
        for where, inner in _children(entry, place):
            yield from _entries(inner, where)


def _supervisor_wrongs(tree: Tree) -> Iterator[_Wrong]:
    yield from _label_wrongs("id", tree.id)
    yield from _label_wrongs("name", tree.name)
    yield from _restart_wrongs(tree.restart)
    yield from _shutdown_wrongs(tree.shutdown)
    yield from _backoff_wrongs(tree.backoff)
    for option in ("max_restarts", "max_failed_inits", "max_ooms", "max_hangs"):
        yield from _max_restarts_wrongs(option, getattr(tree, option))
    yield from _max_seconds_wrongs(tree.max_seconds)
    if isinstance(tree, Supervisor):
        yield from _choice_wrongs("strategy", tree.strategy, _STRATEGIES)
        yield from _choice_wrongs("auto_shutdown", tree.auto_shutdown, _AUTO_SHUTDOWNS)
    elif isinstance(tree, DynamicSupervisor):
        yield from _dynamic_wrongs(tree)
    else:
        yield from _partition_wrongs(tree)


def _dynamic_wrongs(tree: DynamicSupervisor) -> Iterator[_Wrong]:
    most: object = tree.max_children
    if most is not None and not (_is_whole(most) and most >= 0):
        problem = f"expected max_children to be a whole number >= 0, or None, got {_short(most)}"
        yield problem, "write max_children=100, or leave it out for no limit"


def _partition_wrongs(tree: PartitionSupervisor) -> Iterator[_Wrong]:
    count: object = tree.partitions
    if not (_is_whole(count) and count >= 1):
        yield (
            f"expected partitions to be a whole number >= 1, got {_short(count)}",
            "write partitions=4",
        )
    inner: object = tree.child
    if _is_child(inner) and inner.name is not None:
        problem = f"expected a child without a name, got {_short(inner.name)} for all partitions"
        yield problem, "leave the name out, and give the PartitionSupervisor one"


def _child_wrongs(spec: ChildSpec[Any], cpus: frozenset[int] | None) -> Iterator[_Wrong]:
    yield from _server_wrongs(spec.server)
    yield from _argument_wrongs(spec)
    yield from _label_wrongs("id", spec.id)
    yield from _label_wrongs("name", spec.name)
    yield from _restart_wrongs(spec.restart)
    yield from _shutdown_wrongs(spec.shutdown)
    yield from _backoff_wrongs(spec.backoff)
    yield from _time_limit_wrongs("init_timeout", spec.init_timeout)
    yield from _time_limit_wrongs("hang_timeout", spec.hang_timeout)
    yield from _memory_wrongs(spec)
    yield from _label_wrongs("placement", spec.placement)
    yield from _start_wrongs(spec.start)
    yield from _env_wrongs(spec.env)
    yield from _nice_wrongs(spec.nice)
    yield from _affinity_wrongs(spec.cpu_affinity, cpus)
    yield from _mailbox_wrongs("max_messages", spec.max_messages, "10_000")
    yield from _mailbox_wrongs("max_bytes", spec.max_bytes, "64 * 2**20")
    yield from _when_full_wrongs(spec.when_full)


def _server_wrongs(server: object) -> Iterator[_Wrong]:
    if not isinstance(server, type):
        remedy = _how_to_be_a_child(server)
        yield f"expected child(...) to be given a class, got {_described(server)}", remedy
    elif not _is_server(server):
        name = server.__name__
        yield f"expected a GenServer, got {_described(server)}", f"write class {name}(GenServer)"


def _argument_wrongs(spec: ChildSpec[Any]) -> Iterator[_Wrong]:
    meant = [name for name in spec.kwargs if name in OPTIONS]
    if not meant or not _is_server(spec.server):
        return
    # It takes a while to load, and is mostly of no use here.
    import inspect

    try:
        parameters = inspect.signature(spec.server).parameters.values()
    except (TypeError, ValueError):
        return
    taken = {parameter.name for parameter in parameters}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    for name in meant:
        if name not in taken:
            server, value = spec.server.__name__, _described(spec.kwargs[name])
            problem = f"the constructor of {server} takes no {name}, got {value}"
            yield problem, f"write child({server}, ...).options({name}=...) if you mean the option"


def _label_wrongs(option: str, value: object, *, may_be_none: bool = True) -> Iterator[_Wrong]:
    if (value is None and may_be_none) or _is_plain(value):
        return
    expected = f"expected {option} to be text without control characters"
    if not isinstance(value, str):
        yield f"{expected}, got {_described(value)}", f'write {option}="..."'
    elif not value:
        yield f"{expected}, got an empty text", f"leave {option} out, or give it at least a letter"
    else:
        clean = "".join(c for c in value if c.isprintable()) or "..."
        yield f"{expected}, got {value!r}", f'write {option}="{clean}"'


def _choice_wrongs(option: str, value: object, choices: tuple[str, ...]) -> Iterator[_Wrong]:
    if value not in choices:
        problem = f"expected {option} to be {_choice(choices)}, got {_short(value)}"
        yield problem, _did_you_mean(option, value, choices)


def _restart_wrongs(value: object) -> Iterator[_Wrong]:
    if value is not None:
        yield from _choice_wrongs("restart", value, _RESTARTS)


def _max_restarts_wrongs(option: str, value: object) -> Iterator[_Wrong]:
    if value is None or (_is_whole(value) and value >= 0):
        return
    problem = f"expected {option} to be a whole number >= 0, or None, got {_short(value)}"
    if value == math.inf or _means_no_limit(value):
        yield problem, _how_to_limit(option, value)
    else:
        yield problem, f"write {option}=3, or 0 to give up at the first crash"


def _significance_wrongs(entry: Any, auto_shutdown: object) -> Iterator[_Wrong]:
    significant: object = entry.significant
    if significant not in (True, False):
        problem = f"expected significant to be True or False, got {_short(significant)}"
        yield problem, "write significant=True, or leave it out"
    elif significant and (entry.restart or "permanent") == "permanent":
        yield (
            "a permanent child never ends for good, so it cannot be significant",
            'write restart="transient" or restart="temporary" beside significant=True',
        )
    elif significant and auto_shutdown == "never":
        yield (
            "significant=True has no effect, since its supervisor has no auto_shutdown",
            'write Supervisor(..., auto_shutdown="any_significant"), or leave significant out',
        )


_BACKOFFS: Final = (
    ("first", 0.0, "first=0.1, the first delay in seconds"),
    ("factor", 1.0, "factor=2, by how much each delay is longer"),
    ("max", 0.0, "max=30, the longest delay in seconds"),
    ("jitter", 0.0, "jitter=0.2, for up to 20 % more or less"),
    ("reset_after", 0.0, "reset_after=60, in seconds"),
)


def _backoff_wrongs(value: object) -> Iterator[_Wrong]:
    if value is None:
        return
    if not isinstance(value, Backoff):
        yield f"expected backoff to be a Backoff, got {_short(value)}", "write backoff=Backoff()"
        return
    for name, least, example in _BACKOFFS:
        number: object = getattr(value, name)
        most = 1.0 if name == "jitter" else math.inf
        if not _is_number(number) or not least <= number <= most or number == math.inf:
            bounds = f"from {least:g} to {most:g}" if name == "jitter" else f">= {least:g}"
            problem = f"expected {name} of backoff to be a number {bounds}, got {_short(number)}"
            said, _, meaning = example.partition(",")
            yield problem, f"write Backoff({said}),{meaning}"


def _max_seconds_wrongs(value: object) -> Iterator[_Wrong]:
    if not _is_number(value) or not 0 < value < math.inf:
        problem = f"expected max_seconds to be a number of seconds > 0, got {_short(value)}"
        yield problem, "write max_seconds=5.0, the time in which max_restarts are allowed"


def _shutdown_wrongs(value: object) -> Iterator[_Wrong]:
    if value is None or value == "brutal_kill" or (_is_number(value) and 0 <= value < math.inf):
        return
    problem = f'expected shutdown to be seconds >= 0, None or "brutal_kill", got {_short(value)}'
    if isinstance(value, str) and not _means_no_limit(value):
        yield problem, _did_you_mean("shutdown", value, ("brutal_kill",))
    else:
        yield problem, _how_to_limit("shutdown", value)


def _time_limit_wrongs(option: str, value: object) -> Iterator[_Wrong]:
    if value is not None and not (_is_number(value) and 0 < value < math.inf):
        problem = f"expected {option} to be seconds > 0, or None, got {_short(value)}"
        yield problem, _how_to_limit(option, value)


def _memory_wrongs(spec: ChildSpec[Any]) -> Iterator[_Wrong]:
    limit: object = spec.memory_limit
    size = in_bytes(limit)
    if limit is not None and size is None:
        problem = f"expected memory_limit to be bytes, or text such as {_SIZE}, got {_short(limit)}"
        yield problem, _how_to_limit_memory(limit)
    elif size is not None and size < SMALLEST_LIMIT:
        problem = f"expected memory_limit to be at least 16 MiB, got {_short(limit)}"
        yield problem, f"write memory_limit={_SIZE}: an interpreter alone needs some MiB"
    yield from _choice_wrongs("on_oom", spec.on_oom, _ON_OOM)
    if spec.on_oom == "escalate" and spec.restart == "temporary":
        yield (
            'on_oom="escalate" has no effect: a temporary child is not restarted anyhow',
            "leave on_oom out, or write another restart",
        )


_SIZE: Final = '"512MB"'


def _how_to_limit_memory(value: object) -> str:
    if value == math.inf or _means_no_limit(value):
        return "for no limit, write memory_limit=None"
    return f"write memory_limit={_SIZE}, with one of KB, MB, GB, KiB, MiB, GiB"


def _env_wrongs(value: object) -> Iterator[_Wrong]:
    if value is None:
        return
    if not _is_dict(value):
        problem = f"expected env to be a dict of texts, got {_described(value)}"
        yield problem, 'write env={"NAME": "value"}'
        return
    for key, text in value.items():
        yield from _variable_wrongs(key, text)


def _mailbox_wrongs(option: str, value: object, example: str) -> Iterator[_Wrong]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        problem = f"expected {option} to be a whole number >= 1, got {_short(value)}"
        yield problem, f"write {option}={example}; a mailbox always has a bound"


def _when_full_wrongs(value: object) -> Iterator[_Wrong]:
    yield from _choice_wrongs("when_full", value, _WHEN_FULL)


def _variable_wrongs(key: object, text: object) -> Iterator[_Wrong]:
    # Never the value itself: this is where people keep their secrets.
    if not isinstance(key, str) or not key or "=" in key or "\0" in key:
        problem = f'expected a name in env to be text without "=", got {_short(key)}'
        yield problem, 'write env={"NAME": "value"}'
    elif text is None:
        return
    elif not isinstance(text, str):
        problem = f"expected env[{key!r}] to be text, got a value of type {type(text).__name__}"
        yield problem, f'write env={{"{key}": "..."}}, with quotes'
    elif "\0" in text:
        yield f"expected env[{key!r}] to be text, got one with a NUL in it", "take the NUL out"


def _start_wrongs(value: object) -> Iterator[_Wrong]:
    if value is not None:
        yield from _choice_wrongs("start", value, _STARTS)


def _nice_wrongs(value: object) -> Iterator[_Wrong]:
    if value is not None and not (_is_whole(value) and -20 <= value <= 19):
        problem = f"expected nice to be a whole number from -20 to 19, got {_short(value)}"
        yield problem, "write nice=10 for a server that lets others go first"


def _affinity_wrongs(value: object, cpus: frozenset[int] | None) -> Iterator[_Wrong]:
    if value is None:
        return
    expected, remedy = "expected cpu_affinity to be a set of CPU numbers", "write cpu_affinity={0}"
    if not _is_collection(value):
        yield f"{expected}, got {_described(value)}", remedy
        return
    if wrong := [cpu for cpu in value if not _is_whole(cpu) or cpu < 0]:
        yield f"{expected}, got {_short(wrong[0])} in it", remedy
    elif not value:
        yield f"{expected}, got an empty one", "leave cpu_affinity out for all CPUs"
    elif cpus is not None and (missing := sorted(set(value) - cpus)):
        there = ", ".join(map(str, sorted(cpus)))
        yield f"this process may not run on CPU {missing[0]}", f"choose among these: {there}"


# Those of the process, which the members of a placement share.
_OF_THE_PROCESS: Final = ("start", "env", "nice", "cpu_affinity", "memory_limit")


def _conflicts(entries: Iterable[tuple[str, object]]) -> Iterator[Mistake]:
    """Yield what members of one placement want of their process and cannot all have."""
    said: dict[tuple[str, str], tuple[str, object]] = {}
    for place, entry in entries:
        if not _is_child(entry) or not _is_plain(entry.placement):
            continue
        for option in _OF_THE_PROCESS:
            value: object = getattr(entry, option)
            if option == "memory_limit":
                value = in_bytes(value)
            if value is None:
                continue
            first, other = said.setdefault((entry.placement, option), (place, value))
            if not _is_same(value, other):
                problem = (
                    f"expected one {option} for all of placement {entry.placement!r}, which "
                    f"share a process, got another than that of {first}"
                )
                remedy = f"say {option} once, or give one of the two another placement"
                yield Mistake(_where(place, entry), problem, remedy)


def _is_same(left: object, right: object) -> bool:
    if _is_collection(left) and _is_collection(right) and not _is_dict(left):
        return sorted(map(str, left)) == sorted(map(str, right))
    return left == right


def _duplicate_ids(tree: Supervisor, place: str) -> Iterator[Mistake]:
    """Yield the ids that are not unique in their supervisor."""
    ids: dict[str, str] = {}
    for where, entry in _children(tree, place):
        if not (_is_child(entry) or _is_supervisor(entry)):
            continue
        own, kind = _id_of(entry), _kind_of(entry)
        if _is_plain(own) and (first := ids.setdefault(own, where)) != where:
            problem = f"expected an id of its own, got {own!r}, the id of {first}"
            yield Mistake(_where(where, entry), problem, _how_to_have_an_id(entry, kind))


def _id_of(entry: ChildSpec[Any] | Tree) -> object:
    if entry.id is not None:
        return entry.id
    return _kind_of(entry)


def _kind_of(entry: ChildSpec[Any] | Tree) -> str:
    return _name_of(entry.server) if isinstance(entry, ChildSpec) else type(entry).__name__


def _how_to_have_an_id(entry: object, kind: str) -> str:
    if isinstance(entry, ServerPool):
        return 'write Pool(..., name="..."), or Pool.of(..., id="..."), another for each'
    if _is_supervisor(entry):
        return f'write {kind}(..., id="..."), another id for each'
    call = f"child({kind}, ...)" if kind else "child(...)"
    return f'write {call}.options(id="..."), another id for each'


def _duplicate_names(entries: Iterable[tuple[str, object]]) -> Iterator[Mistake]:
    """Yield the names that are not unique in the node."""
    names: dict[str, str] = {}
    for place, entry in entries:
        if not (_is_child(entry) or _is_supervisor(entry)):
            continue
        if _is_plain(entry.name) and (first := names.setdefault(entry.name, place)) != place:
            problem = f"expected a name of its own, got {entry.name!r}, the name of {first}"
            remedy = "give one of the two another name, or none"
            yield Mistake(_where(place, entry), problem, remedy)


def _how_to_be_a_child(entry: object) -> str:
    """Return what to write where something stands that is no child, or no class of one."""
    if isinstance(entry, ChildSpec):
        return "write child(...) once"
    if isinstance(entry, list | tuple):
        return "write Supervisor(child(...), child(...)), without the brackets"
    if isinstance(entry, type):
        return f"write child({entry.__name__})"
    if _is_server(type(entry)):
        return f"write child({type(entry).__name__}, ...): its worker process makes the instance"
    return "write child(YourServer), with a class that derives from GenServer"


def _how_to_limit(option: str, value: object) -> str:
    if value == math.inf or _means_no_limit(value):
        return f"for no limit, write {option}=None"
    return f"write {option}=5.0 for five seconds, or {option}=None for no limit"


def _did_you_mean(option: str, value: object, choices: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value).lower(), choices, n=1) or choices[:1]
    return f'write {option}="{near[0]}"'


def _where(place: str, entry: ChildSpec[Any] | Tree) -> str:
    name = _name_of(entry.server) if isinstance(entry, ChildSpec) else ""
    return f"{place} ({name})" if name else place


def _name_of(server: object) -> str:
    return server.__name__ if isinstance(server, type) else ""


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if _is_supervisor(value):
        return f"a {type(value).__name__}"
    if _is_server(type(value)):
        return f"an instance of {type(value).__name__}"
    return f"{_short(value)} ({type(value).__name__})"


def _choice(choices: tuple[str, ...]) -> str:
    return " or ".join(f'"{choice}"' for choice in choices)


_short = reprlib.repr


def _is_server(cls: type) -> bool:
    # What GenServer gives to every class that derives from it; spares us the import.
    return hasattr(cls, "__child_options__")


def _is_child(value: object) -> TypeGuard[ChildSpec[Any]]:
    return isinstance(value, ChildSpec)


def _is_supervisor(value: object) -> TypeGuard[Tree]:
    return isinstance(value, _SUPERVISORS)


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_collection(value: object) -> TypeGuard[Collection[Any]]:
    return isinstance(value, Collection) and not isinstance(value, str | bytes | dict)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_plain(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_number(value: object) -> TypeGuard[float]:
    # True is an int to Python, but nobody means one second by it.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _means_no_limit(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in _NO_LIMIT
