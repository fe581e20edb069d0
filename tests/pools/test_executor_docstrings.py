"""The examples in the docstrings of an executor run, and print what stands behind them."""

from __future__ import annotations

import inspect
import re
import textwrap
import time

import pytest

from noex_mp import ProcessPoolExecutor
from noex_mp.pools.executor import ExecutorTasks

pytestmark = pytest.mark.usefixtures("own_node")

DOCUMENTED = {
    "ProcessPoolExecutor": ProcessPoolExecutor,
    **{
        name: method
        for name, method in vars(ExecutorTasks).items()
        if inspect.isfunction(method) and not name.startswith("_")
    },
}


def test_each_method_is_documented() -> None:
    assert DOCUMENTED.keys() >= {"submit", "map", "stop", "options", "shutdown"}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_a_docstring_prints_what_it_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    docstring = inspect.getdoc(DOCUMENTED[name]) or ""
    assert re.search(r"^Raises:$", docstring, re.MULTILINE)
    [example] = re.findall(r"```python\n(.*?)^ *```", docstring, re.DOTALL | re.MULTILINE)
    exec(textwrap.dedent(example), {"ProcessPoolExecutor": ProcessPoolExecutor, "time": time})
    said = re.findall(r"print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said != []
