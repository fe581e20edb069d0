"""The example of docs/application.md is an application, and runs as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.harness import noex_mp, running

PAGE = Path(__file__).parents[2] / "docs" / "application.md"


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n# shop.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "shop.py").write_text(code)
    words = ("shop:shop", "--set", "database=placed.txt", "--name", "page")
    with running(*words, folder=tmp_path, variables={"SHOP_CURRENCY": "CHF"}) as run:
        called = noex_mp("call", "orders", "place", '"tea"', "--node", "page")
        assert called.stdout.strip() == '"tea, to be paid in CHF"'
    assert (tmp_path / "placed.txt").read_text() == "tea\n"
    assert "orders are in placed.txt" in run.out[-1]
