"""The examples of the pages on pools are programs, and print what stands below them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_examples_of_the_page_on_other_pools_print_what_stands_there(tmp_path: Path) -> None:
    page = (DOCS / "migrating.md").read_text()
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL)
    for name, code in files:
        (tmp_path / name).write_text(code)
    said = dict(
        re.findall(r"```python\n# (\w+\.py)\n[^`]*```\n\n```text\n(.*?)```", page, re.DOTALL)
    )
    assert said.keys() == {"from_executor.py", "from_joblib.py", "from_pool.py", "from_ray.py"}
    running = {
        name: subprocess.Popen(
            [sys.executable, name], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in said
    }  # fmt: skip
    try:
        for name, program in running.items():
            assert program.communicate(timeout=15)[0] == said[name], name
    finally:
        for program in running.values():
            program.kill()
            program.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name"), [("server-pools.md", "hashing.py"), ("recycling.md", "pi.py")]
)
def test_the_example_of_another_page_prints_what_stands_there(
    page: str, name: str, tmp_path: Path
) -> None:
    text = (DOCS / page).read_text()
    code, said = re.findall(rf"```(?:python\n# {name}|text)\n(.*?)```", text, re.DOTALL)
    (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, name],
        cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    assert done.stdout == said, done.stderr


def test_the_page_on_pools_names_tests_that_are_there() -> None:
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (DOCS / "pools.md").read_text())
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (DOCS.parent / "tests" / file).read_text(), (file, name)
