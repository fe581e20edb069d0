"""One file of Python in, its symbols out. No server is needed for that."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

_TOKEN = re.compile(r"\w+")
# The parts of put_nowait, OrderedDict and HTTPServer.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


# Plain dicts at run time: they travel, go into the journal and are printed by `noex-mp call`.
class Symbol(TypedDict):
    """A module, class, function or method."""

    name: str
    kind: str
    line: int
    summary: str


class ParsedFile(TypedDict):
    """What the index keeps of one file.

    `words` tells the numbers of the symbols whose name or docstring has a word; `problem` says
    why a file has no symbols, and is empty otherwise.
    """

    path: str
    stamp: str
    problem: str
    symbols: list[Symbol]
    words: dict[str, list[int]]


def parse_file(root: str, path: str, stamp: str) -> ParsedFile:
    """Parse one file; a file that is no Python is a result, too."""
    parsed = ParsedFile(path=path, stamp=stamp, problem="", symbols=[], words={})
    try:
        module = _parse(Path(root, path))
        for name, kind, node in _symbols(module, module_name(path)):
            _add_symbol(parsed, name, kind, node)
    # The last two are what deep nesting does to the parser.
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return unparsable(path, stamp, f"{type(error).__name__}: {error}")
    return parsed


def unparsable(path: str, stamp: str, problem: str) -> ParsedFile:
    """Return the result for a file that has no symbols."""
    return ParsedFile(path=path, stamp=stamp, problem=_clean(problem), symbols=[], words={})


def module_name(path: str) -> str:
    """Return the name under which a file is imported.

    >>> module_name("asyncio/queues.py"), module_name("asyncio/__init__.py")
    ('asyncio.queues', 'asyncio')
    """
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def words_of(text: str) -> set[str]:
    """Return the words of a text, and the parts of those that have several.

    >>> sorted(words_of("OrderedDict"))
    ['dict', 'ordered', 'ordereddict']
    """
    tokens: list[str] = _TOKEN.findall(text)
    parts: list[str] = _PART.findall(text)
    return {word.lower() for word in (*tokens, *parts)}


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Invalid escapes and the like: not ours to report.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes(), filename=path.name)


def _symbols(module: ast.Module, name: str) -> Iterator[tuple[str, str, ast.Module | _Definition]]:
    yield name, "module", module
    yield from _definitions(module, name, "function")


def _definitions(parent: ast.AST, prefix: str, kind: str) -> Iterator[tuple[str, str, _Definition]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, "class", node
            yield from _definitions(node, name, "method")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{node.name}", kind, node
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            # Also what is defined below `if` and `try`.
            yield from _definitions(node, prefix, kind)


def _add_symbol(parsed: ParsedFile, name: str, kind: str, node: ast.Module | _Definition) -> None:
    doc = _clean(ast.get_docstring(node) or "")
    line = 1 if isinstance(node, ast.Module) else node.lineno
    number = len(parsed["symbols"])
    parsed["symbols"].append(
        Symbol(name=name, kind=kind, line=line, summary=doc.partition("\n")[0])
    )
    for word in words_of(f"{name} {doc}"):
        parsed["words"].setdefault(word, []).append(number)


def _clean(text: str) -> str:
    # Tests have docstrings with half a surrogate pair, which is no text that UTF-8 could carry.
    return text.encode(errors="replace").decode()
