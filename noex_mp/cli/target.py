"""What to run: `app:tree` on the command line, a `Node` in the program.

```python
node = load_node("examples.codeindex:tree")
```

The name may stand for a `Supervisor(...)`, an `Application(...)`, which brings those it depends on,
for a `Node(tree, ...)` that has not been started, or for a function without arguments that returns
one of them.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final

from noex_mp.core.gen_server import GenServer
from noex_mp.core.specs import ChildSpec, Tree
from noex_mp.errors import BadTargetError, ConfigError, NodeDownError
from noex_mp.node.control_socket import check_name
from noex_mp.node.node import Node
from noex_mp.services.application import is_application
from noex_mp.services.dependencies import applications
from noex_mp.services.settings import configured

__all__ = ["Target", "load_node", "load_tree", "look_in_this_folder"]

_EXAMPLE: Final = "For a tree called 'tree' in app.py, write: noex-mp run app:tree"


class Target:
    """A target as it was typed, in its two halves.

    Attributes:
        module: The module's name.
        name: The name of the tree in it.
        node_name: What to call the node where nobody says it: as the module, or the application.
    """

    def __init__(self, text: str) -> None:
        """Take a target apart.

        Raises:
            BadTargetError: It is not `module:name`.
        """
        self.module, colon, self.name = text.partition(":")
        parts = self.module.split(".")
        self.node_name = self.module.rpartition(".")[2]
        if colon and self.name.isidentifier() and all(part.isidentifier() for part in parts):
            return
        raise _no_target(text)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def _no_target(text: str) -> BadTargetError:
    meant = _as_target(text)
    hint = f"Did you mean {meant}?" if meant else _EXAMPLE
    return BadTargetError(f"expected module:tree, got {text!r}\n{hint}")


def _as_target(text: str) -> str | None:
    """Return what somebody meant who typed a path, or left out the tree."""
    path, _, name = text.partition(":")
    module = path.removesuffix(".py").strip("./").replace("/", ".")
    words = [*module.split("."), name or "tree"]
    return f"{module}:{words[-1]}" if all(word.isidentifier() for word in words) else None


def look_in_this_folder() -> None:
    """Import from the current folder first, as `python` does for a script in it.

    Raises:
        BadTargetError: There is no such folder any more.
    """
    # An installed script has its own folder there instead. The zygote gets this path as well.
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:
        raise BadTargetError(
            "the current folder has been removed\nGo to the one that holds your program."
        ) from None
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def load_node(target: Target) -> Node:
    """Import the target's module, and return the node to run; it is not started.

    Raises:
        BadTargetError: Says which half is wrong, and what to type instead; or it holds the
            traceback of what the module itself raised.
    """
    module = _import(target)
    found = _look_up(target, module)
    if _is_function(found):
        return _as_node(target, _call(target, found), f"{target}()")
    return _as_node(target, found, str(target))


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not _is_server(type(value))


def _is_server(cls: Any) -> bool:
    return issubclass(cls, GenServer)


# --- the module ---------------------------------------------------------------------------------


def load_tree(
    target: Target, config: str | None, options: Sequence[str]
) -> tuple[Node, dict[str, Any] | None]:
    """Import the target's module, and return the node to run, and its tree as plain values.

    Args:
        target: The tree.
        config: The TOML file with the configuration of its applications, or None.
        options: Options of theirs.

    Raises:
        BadTargetError: As `load_node`; also where an application's function of its tree fails.
        ConfigError: The tree is described wrongly, or its applications are configured wrongly.
    """
    node = load_node(target)
    try:
        node.tree = configured(node.tree, config, options)
        return node, node.wire_tree()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if _without_our_frames(error.__traceback__) is None:
            # A fault of our own.
            raise
        raise _failed(f"{target} cannot be made", error) from None


def _import(target: Target) -> ModuleType:
    try:
        module = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is theirs to see in full.
        if not f"{target.module}.".startswith(f"{error.name}."):
            raise _failed(f"{target.module} cannot be imported", error) from None
        if error.name == target.module and target.module.endswith(".py"):
            # It was meant as a file, though a package could have a module called py.
            raise _no_target(str(target)) from None
        raise BadTargetError(_no_module(target.module, error.name or target.module)) from None
    except (Exception, SystemExit) as error:
        raise _failed(f"{target.module} cannot be imported", error) from None
    _refuse_namesake(module)
    return module


def _no_module(name: str, missing: str) -> str:
    """Return what to say when `missing`, which is `name` or a package of it, is not there."""
    parent, _, last = missing.rpartition(".")
    folders: list[str] = [str(Path.cwd())]
    if parent:
        folders = list(getattr(sys.modules[parent], "__path__", ()))
        if not folders:
            return f"{parent} is a module and no package, so there is no {missing} in it"
    problem = f"there is no module {missing!r} on the import path"
    near = difflib.get_close_matches(last, _modules_in(folders), n=1)
    if near:
        meant = f"{parent}.{near[0]}" if parent else near[0]
        return f"{problem}\nDid you mean {meant}{name.removeprefix(missing)}?"
    if parent:
        return f"{problem}\nCheck the folder of the package {parent}: it has no {last}."
    return (
        f"{problem}\nRun noex-mp from the folder that holds {missing}.py, or add that folder "
        f"to PYTHONPATH."
    )


def _modules_in(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        for path in Path(folder).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").exists():
                yield path.stem


def _refuse_namesake(module: ModuleType) -> None:
    """Say so where an installed module hides the one in this folder, which was meant."""
    here = Path.cwd() / f"{module.__name__}.py"
    file = getattr(module, "__file__", None)
    if here.exists() and (file is None or not os.path.samefile(file, here)):
        where = f"from {file}" if file else "of Python's own"
        raise BadTargetError(
            f"{module.__name__} is also the name of a module {where}, which was imported before\n"
            f"Give {here.name} another name."
        )


# --- the tree in it -----------------------------------------------------------------------------


def _look_up(target: Target, module: ModuleType) -> Any:
    missing = object()
    found: Any = getattr(module, target.name, missing)
    if found is not missing:
        return found
    names = list(vars(module))
    trees = [name for name in names if isinstance(vars(module)[name], Tree | Node)]
    makers = [name for name in names if _may_make_a_tree(module, vars(module)[name])]
    hint = difflib.get_close_matches(target.name, [*trees, *makers], n=1) or trees[:1]
    raise BadTargetError(
        f"{target.module} has no supervision tree called {target.name!r}\n"
        + (
            f"Did you mean {target.module}:{hint[0]}?"
            if hint
            else f"Define one there: {target.name} = Supervisor(child(YourServer))"
        )
    )


def _may_make_a_tree(module: ModuleType, value: object) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _call(target: Target, function: Callable[..., object]) -> object:
    needed = _needed_arguments(function)
    if needed:
        raise BadTargetError(
            f"{target} takes arguments ({', '.join(needed)}), and there is nobody to give them\n"
            f"Give them defaults, or write a function without arguments that returns a Supervisor."
        )
    try:
        made = function()
    except (Exception, SystemExit) as error:
        raise _failed(f"{target}() raised an error", error) from None
    if inspect.iscoroutine(made):
        made.close()
        raise BadTargetError(
            f"{target} is an async function, and nothing runs yet that could await it\n"
            f"Write def instead of async def, and do what needs to wait in a server's init."
        )
    return made


def _needed_arguments(function: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # Something written in C that does not say; calling it will tell.
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _as_node(target: Target, found: object, shown: str) -> Node:
    if is_application(found):
        with contextlib.suppress(ConfigError):
            check_name(found.name, "")
            target.node_name = found.name
        return Node(applications(found))
    if isinstance(found, Tree):
        return Node(found)
    if isinstance(found, Node):
        return _unstarted(found, shown)
    raise BadTargetError(
        f"expected {shown} to be a Supervisor, an Application, a Node or a "
        f"function that returns one, "
        f"got {_described(found)}\n{_remedy(found, shown)}"
    )


def _unstarted(node: Node, shown: str) -> Node:
    if node.tree is None:
        raise BadTargetError(
            f"{shown} is a node without a tree, so there is nothing to run\n"
            f"Write Node(Supervisor(child(YourServer)))."
        )
    try:
        node.id  # noqa: B018 - raises unless it runs
    except NodeDownError:
        return node
    raise BadTargetError(
        f"{shown} was started by its own module\nLeave that to noex-mp: only describe it there."
    )


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _remedy(value: Any, shown: str) -> str:
    if value is None and shown.endswith("()"):
        return "Let the function return its tree."
    if isinstance(value, ChildSpec):
        return "Put it into a tree: Supervisor(child(...))"
    if isinstance(value, type):
        name = value.__name__ if _is_server(value) else "YourServer"
        return f"Put a server into a tree: Supervisor(child({name}))"
    if _is_server(value.__class__):
        name = value.__class__.__name__
        return f"Describe it instead of making it: Supervisor(child({name}, ...))"
    if isinstance(value, list | tuple):
        return "Write Supervisor(child(...), child(...)), without brackets."
    return "Write Supervisor(child(YourServer)), with a class that derives from GenServer."


# --- errors of the user's code ------------------------------------------------------------------


#: Where all of our own code is.
_OURS: Final = str(Path(__file__).parents[1]) + os.sep


def _failed(what: str, error: BaseException) -> BadTargetError:
    """Return the error that shows the user's own, without the frames on the way to their code."""
    theirs = error.with_traceback(_without_our_frames(error.__traceback__))
    text = "".join(traceback.format_exception(theirs)).rstrip()
    return BadTargetError(f"{what}:\n\n{text}")


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_on_the_way(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_on_the_way(filename: str) -> bool:
    return (
        filename.startswith((_OURS, "<frozen importlib"))
        # An application makes its tree when somebody first asks for that.
        or filename in (importlib.__file__, functools.__file__)
    )
