"""`noex-mp init`: the project that it writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from noex_mp import ConfigError
from noex_mp.cli.init import init, package_name
from tests.cli.harness import environment, noex_mp, running

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("folder", "name"),
    [("shop", "shop"), ("My-Shop", "my_shop"), ("a.b", "a_b"), ("shop2", "shop2")],
)
def test_a_project_is_called_as_its_folder(folder: str, name: str) -> None:
    assert package_name(folder) == name


@pytest.mark.parametrize(
    "folder", ["", "2shop", "class", "json", "tests", "noex_mp", "msgpack", "..", "é"]
)
def test_a_folder_that_cannot_be_a_module_is_told(folder: str) -> None:
    with pytest.raises(ConfigError, match="noex-mp init shop"):
        package_name(folder)


def test_all_files_are_there_and_speak_of_the_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-shop"
    # An empty one will do.
    folder.mkdir()
    assert init(str(folder)) == 0
    assert "make test" in capsys.readouterr().out
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {
        *(".dockerignore", ".gitignore", "Dockerfile", "Makefile", "README.md", "pyproject.toml"),
        *("my_shop.service", "my_shop.toml"),
        *("my_shop/__init__.py", "my_shop/app.py", "my_shop/servers.py"),
        *("tests/test_app.py", "tests/test_servers.py"),
    }
    for path in written:
        assert not re.search("NAME|VARIABLE_", (folder / path).read_text()), path
    assert 'ENTRYPOINT ["noex-mp", "run", ' in (folder / "Dockerfile").read_text()


@pytest.mark.parametrize("what", ["file", "full"])
def test_what_is_there_is_left_alone(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "shop"
    kept = folder if what == "file" else folder / "README.md"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="expected a new or an empty folder"):
        init(str(folder))
    assert kept.read_text() == "mine"
    assert kept == folder or [*folder.iterdir()] == [kept]


@slow
def test_the_tests_of_the_project_pass_and_it_runs(tmp_path: Path) -> None:
    done = noex_mp("init", "shop", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "shop"
    # In this environment, which has noex-mp and pytest: nothing is downloaded.
    done = subprocess.run(
        ["make", "test", f"VENV={sys.prefix}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    with running(
        "shop.app:application", "--config", "shop.toml", folder=folder, until="node shop is up"
    ):
        called = noex_mp("call", "greeter", "greet", '"Ann"', "--node", "shop")
        assert called.stdout.strip() == '"Hello, Ann! You are visitor 1."'
