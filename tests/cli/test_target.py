"""`module:tree` on the command line: what is found, and what is said where nothing is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from noex_mp import BadTargetError, Node, Supervisor
from noex_mp.cli.target import Target, load_node

SHOP = """
from noex_mp import GenServer, Node, Supervisor, child

class Cart(GenServer): pass

tree = Supervisor(child(Cart))
node = Node(tree, name="shop")
empty = Node()
alone = child(Cart)
several = [child(Cart)]
made = Cart()
number = 7
nothing = None
Tree = Supervisor

def make(): return tree
def make_node(size=3, *args, **kwargs): return node
def forgets(): pass
def needs(a, b, c=1): return tree
async def waits(): return tree
def fails(): raise KeyError("no tree today")
def leaves(): raise SystemExit(3)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    (tmp_path / "shop_app.py").write_text(SHOP)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["tree", "node", "make", "make_node"])
def test_a_tree_a_node_and_a_function_are_found(name: str) -> None:
    node = load_node(Target(f"shop_app:{name}"))
    assert isinstance(node, Node)
    assert isinstance(node.tree, Supervisor)
    assert node.name == ("shop" if "node" in name else None)


def test_the_node_is_called_as_the_module_without_its_packages() -> None:
    assert Target("examples.codeindex:tree").node_name == "codeindex"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("shop_app", "Did you mean shop_app:tree?"),
        ("shop_app.py", "Did you mean shop_app:tree?"),
        ("./front/shop_app.py:node", "Did you mean front.shop_app:node?"),
        ("shop_app:", "Did you mean shop_app:tree?"),
        ("", "write: noex-mp run app:tree"),
        (":tree", "write: noex-mp run app:tree"),
        (".shop_app:tree", "Did you mean shop_app:tree?"),
        ("shop app:tree", "write: noex-mp run app:tree"),
        ("shop_app:a.b", "write: noex-mp run app:tree"),
    ],
)
def test_what_is_no_target_is_refused_with_a_better_one(text: str, hint: str) -> None:
    with pytest.raises(BadTargetError) as refused:
        Target(text)
    problem, _, remedy = str(refused.value).partition("\n")
    assert problem == f"expected module:tree, got {text!r}"
    assert remedy.endswith(hint)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("shop_ap:tree", "no module 'shop_ap' on the import path\nDid you mean shop_app?"),
        ("elsewhere:tree", "Run noex-mp from the folder that holds elsewhere.py"),
        (
            "shop_app.py:make",
            "expected module:tree, got 'shop_app.py:make'\nDid you mean shop_app:make?",
        ),
        ("elsewhere.py:tree", "Run noex-mp from the folder that holds elsewhere.py"),
        ("shop_app.inner:tree", "shop_app is a module and no package"),
        ("package.inside:tree", "Did you mean package.insides?"),
        ("package.inner:tree", "Check the folder of the package package: it has no inner"),
        ("shop_app:tre", "no supervision tree called 'tre'\nDid you mean shop_app:tree?"),
        ("shop_app:mke", "no supervision tree called 'mke'\nDid you mean shop_app:make?"),
        ("shop_app:xyz", "no supervision tree called 'xyz'\nDid you mean shop_app:tree?"),
        ("bare:tree", "Define one there: tree = Supervisor(child(YourServer))"),
        ("shop_app:Cart", "got the class Cart\nPut a server into a tree: Supervisor(child(Cart))"),
        ("shop_app:Tree", "got the class Supervisor\nPut a server into a tree"),
        ("shop_app:alone", "got child(Cart)\nPut it into a tree: Supervisor(child(...))"),
        ("shop_app:several", "got [child(Cart)]\nWrite Supervisor(child(...), child(...))"),
        ("shop_app:made", "Describe it instead of making it: Supervisor(child(Cart, ...))"),
        ("shop_app:number", "got 7\nWrite Supervisor(child(YourServer))"),
        ("shop_app:nothing", "got None\nWrite Supervisor(child(YourServer))"),
        ("shop_app:empty", "shop_app:empty is a node without a tree"),
        ("shop_app:forgets", "shop_app:forgets() to be a Supervisor, an Application, a Node or a"),
        ("shop_app:forgets", "got None\nLet the function return its tree."),
        ("shop_app:needs", "shop_app:needs takes arguments (a, b), and"),
        ("shop_app:waits", "Write def instead of async def"),
        ("shop_app:fails", "shop_app:fails() raised an error:\n\nTraceback"),
        ("shop_app:leaves", "SystemExit: 3"),
        ("json:tree", "json is also the name of a module from"),
    ],
)
def test_each_mistake_is_named_with_its_remedy(folder: Path, target: str, text: str) -> None:
    (folder / "bare.py").write_text("")
    (folder / "json.py").write_text("")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "insides.py").write_text("")
    with pytest.raises(BadTargetError) as refused:
        load_node(Target(target))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import not_installed_here", "ModuleNotFoundError: No module named 'not_installed_here'"),
        ("import broken.inner", "'broken' is not a package"),
        ("def (", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no')", "SystemExit: no"),
    ],
)
def test_an_error_in_the_module_is_shown_from_its_own_first_line_on(
    folder: Path, code: str, last: str
) -> None:
    (folder / "broken.py").write_text(code)
    with pytest.raises(BadTargetError) as refused:
        load_node(Target("broken:tree"))
    lines = str(refused.value).splitlines()
    assert lines[0] == "broken cannot be imported:"
    assert next(line for line in lines if "File" in line).startswith(f'  File "{folder}')
    assert lines[-1].endswith(last)


async def test_a_node_that_runs_already_is_refused(folder: Path) -> None:
    class Started(Node):
        @property
        def id(self) -> str:
            return "4711"

    (folder / "late.py").write_text("node = None")
    import late  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    late.node = Started(Supervisor())
    with pytest.raises(BadTargetError, match="late:node was started by its own module"):
        load_node(Target("late:node"))
