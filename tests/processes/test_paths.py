"""Where named sockets live."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from noex_mp.errors import ConfigError
from noex_mp.transport.paths import bind_unix, connect_unix, runtime_folder


@pytest.fixture(autouse=True)
def xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "xdg"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_runtime_folder_is_ours_alone_and_found_again(xdg: Path) -> None:
    assert runtime_folder() == xdg / "noex-mp" == runtime_folder()
    assert mode_of(xdg / "noex-mp") == 0o700


@pytest.mark.parametrize("value", ["", "relative", "/no/such/folder"])
def test_without_a_usable_variable_it_is_in_the_temporary_folder(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert runtime_folder() == tmp_path / f"noex-mp-{os.getuid()}"


def test_a_link_in_its_place_is_refused(xdg: Path, tmp_path: Path) -> None:
    (xdg / "noex-mp").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is a link\nRemove it"):
        runtime_folder()


def test_a_folder_that_others_can_enter_is_refused_with_the_remedy(xdg: Path) -> None:
    (xdg / "noex-mp").mkdir()
    (xdg / "noex-mp").chmod(0o755)
    with pytest.raises(ConfigError, match=r"mode 755\)\nClose it with: chmod 700"):
        runtime_folder()


def test_a_folder_of_another_user_is_refused(xdg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(xdg))
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(ConfigError, match="belongs to the user with the id"):
        runtime_folder()


def test_a_socket_works_below_a_path_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with bind_unix(folder, "node") as listener:
        assert mode_of(folder / "node") == 0o600
        with connect_unix(folder, "node") as client:
            listener.setblocking(True)
            peer, _ = listener.accept()
            with peer:
                client.send(b"x")
                assert peer.recv(1) == b"x"


def test_a_name_in_use_is_refused_and_a_stale_one_replaced(tmp_path: Path) -> None:
    taken = pytest.raises(FileExistsError, match="choose another name")
    with bind_unix(tmp_path, "node"), taken:
        bind_unix(tmp_path, "node")
    with pytest.raises(ConnectionRefusedError):
        connect_unix(tmp_path, "node")
    bind_unix(tmp_path, "node").close()


@pytest.mark.parametrize("name", ["a/b", "x" * 81])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has at most 80 bytes and no slash"):
        bind_unix(tmp_path, name)


def test_there_is_nobody_at_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect_unix(tmp_path, "node")
