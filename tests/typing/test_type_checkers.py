"""Both type checkers agree with the files in this folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("checker", "command"),
    [
        ("mypy", ["mypy", "--follow-imports=silent"]),
        ("pyright", ["pyright", "--project", "pyproject.toml"]),
    ],
)
def test_the_type_checkers_find_each_mistake_and_nothing_else(
    checker: str, command: list[str]
) -> None:
    program = shutil.which(checker, path=Path(sys.executable).parent)
    if find_spec(checker) is None or program is None:
        pytest.skip(f"{checker} is not installed")
    files = sorted(str(path) for path in HERE.glob("*.py"))
    done = subprocess.run(
        [program, *command[1:], *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
