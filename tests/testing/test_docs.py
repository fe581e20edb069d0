"""The whole examples of the pages run: that of docs/testing.md is a test, and passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_example_of_the_page_on_registries_says_what_stands_there(tmp_path: Path) -> None:
    page = (DOCS / "registry.md").read_text()
    code, said = re.findall(r"```(?:python\n# rooms\.py|text)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "rooms.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "rooms.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    assert done.stdout == said, done.stderr


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    page = (DOCS / "testing.md").read_text()
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in files] == ["orders.py", "test_orders.py"]
    for name, code in files:
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
