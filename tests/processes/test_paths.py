"""Where named sockets live."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noex_mp.errors import ConfigError
from noex_mp.transport.fds import disown
from noex_mp.transport.paths import (
    bind_unix,
    connect_unix,
    remove_stale,
    runtime_folder,
    runtime_folders,
)


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


def test_of_many_that_want_the_name_of_a_dead_one_at_once_one_gets_it(tmp_path: Path) -> None:
    def try_to_bind(_: int) -> socket.socket | None:
        try:
            return bind_unix(tmp_path, "node")
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            tried = list(threads.map(try_to_bind, range(8)))
            [listener] = [each for each in tried if each is not None]
            with connect_unix(tmp_path, "node"):
                disown(listener.fileno())
                listener.close()


def test_what_is_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    remove_stale(tmp_path, "node")
    with bind_unix(tmp_path, "node") as listener:
        remove_stale(tmp_path, "node")
        assert (tmp_path / "node").is_socket()
        disown(listener.fileno())
    remove_stale(tmp_path, "node")
    assert not (tmp_path / "node").exists()


def test_a_lock_that_somebody_keeps_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with bind_unix(tmp_path, "node") as listener:
        disown(listener.fileno())
    os.close(descriptor)


def test_nobody_waits_for_ever_for_a_process_that_takes_no_connections(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hangs, socket.socket(socket.AF_UNIX) as other:
        hangs.bind(str(tmp_path / "node"))
        hangs.listen(0)
        other.connect(str(tmp_path / "node"))
        with pytest.raises(TimeoutError, match="nobody takes connections"):
            connect_unix(tmp_path, "node", patience=1)


def test_where_no_folder_can_be_made_the_error_is_the_systems(
    xdg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file in the way of every candidate, which works for root too.
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    (xdg / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(xdg / "file"))
    with pytest.raises(NotADirectoryError):
        runtime_folder()
    assert runtime_folders() == []


def test_whoever_looks_for_nodes_looks_in_both_places(
    xdg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert runtime_folders() == []
    (tmp_path / f"noex-mp-{os.getuid()}").mkdir(mode=0o700)
    runtime_folder()
    assert runtime_folders() == [xdg / "noex-mp", tmp_path / f"noex-mp-{os.getuid()}"]
