"""Where named sockets live: a folder that is ours alone, and names of any length.

```python
folder = runtime_folder()
listener = bind_unix(folder, "node-4711")
```
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

from noex_mp.errors import ConfigError
from noex_mp.transport.fds import high_socket

# sun_path holds 108 bytes with its final zero; a path through /proc takes up to 25 of them.
_MAX_NAME: Final = 80
_BACKLOG: Final = 64


def runtime_folder() -> Path:
    """Return the folder for this user's named sockets; make it where it is missing.

    It is `$XDG_RUNTIME_DIR/noex-mp` where that is usable, else `<temp folder>/noex-mp-<uid>`.

    Raises:
        ConfigError: Somebody else owns it, or can write to it.
    """
    uid = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"noex-mp-{uid}"
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    # After `su` the variable often still names another user's folder.
    if os.path.isabs(base) and os.path.isdir(base) and os.stat(base).st_uid == uid:
        folder = Path(base) / "noex-mp"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_private(folder, uid)
    return folder


def _check_private(folder: Path, uid: int) -> None:
    # lstat: a link that somebody else put there must not lead us anywhere.
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        problem = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
        remedy = "Remove it"
    elif found.st_uid != uid:
        problem = f"belongs to the user with the id {found.st_uid}, not to you ({uid})"
        remedy = "Remove it"
    elif found.st_mode & 0o077:
        problem = f"is open to other users (mode {stat.S_IMODE(found.st_mode):o})"
        remedy = f"Close it with: chmod 700 {folder}"
    else:
        return
    raise ConfigError(
        f"the folder for control sockets must be yours alone, but {folder} {problem}\n"
        f"{remedy}, or set XDG_RUNTIME_DIR to a private folder."
    )


def bind_unix(folder: Path, name: str) -> socket.socket:
    """Return a socket that listens at `folder/name`, for this user alone (mode 0600).

    The folder's path may be of any length. What a dead process left under the name is replaced.

    Raises:
        FileExistsError: A running process listens there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux makes the file with the mode of the socket: at no time is it open to others.
        # Elsewhere there is no such mode, and the folder alone keeps others out until the chmod.
        with contextlib.suppress(OSError):
            os.fchmod(listener.fileno(), 0o600)
        with _short_path(folder, name) as path:
            _remove_stale(path, folder / name)
            listener.bind(path)
            os.chmod(path, 0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return high_socket(listener)


def connect_unix(folder: Path, name: str) -> socket.socket:
    """Return a blocking socket connected to `folder/name`; the path may be of any length.

    Raises:
        FileNotFoundError: There is no such socket.
        ConnectionRefusedError: There is one, but the process that listened there has ended.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(folder, name) as path:
            client.connect(path)
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def _short_path(folder: Path, name: str) -> Generator[str]:
    if len(os.fsencode(name)) > _MAX_NAME or "/" in name:
        raise ValueError(
            f"the name of a socket has at most {_MAX_NAME} bytes and no slash, got {name!r}"
        )
    if not hasattr(os, "O_PATH"):
        # Only Linux reaches a folder through its descriptor.
        yield str(folder / name)
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _remove_stale(path: str, shown: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener whose queue is full is alive too; do not wait for it.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise FileExistsError(f"a running process listens at {shown}; choose another name")
