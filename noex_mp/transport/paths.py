"""Where named sockets live: a folder that is ours alone, and names of any length.

```python
folder = runtime_folder()
listener = bind_unix(folder, "node-4711")
```

Whoever looks at a socket's file and then replaces or removes it holds the folder's lock
meanwhile. So a dead node's socket is cleared away by its successor, the command line and what is
left of the dead node at the same time, and a living one's never is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from noex_mp.errors import ConfigError
from noex_mp.transport.fds import high_socket

# sun_path holds 108 bytes with its final zero, on macOS 104; a path through /proc takes up to 25
# of them.
_MAX_PATH: Final = 100
_MAX_NAME: Final = 80
_BACKLOG: Final = 64

# A holder needs less than a millisecond; one that hangs must not hold up others. In seconds.
_LOCK_PATIENCE: Final = 1.0


# --- the folder ---------------------------------------------------------------------------------


def runtime_folder() -> Path:
    """Return the folder for this user's named sockets; make it where it is missing.

    It is `$XDG_RUNTIME_DIR/noex-mp` where that can be written, else `<temp folder>/noex-mp-<uid>`.

    Raises:
        ConfigError: Somebody else owns it, or can write to it.
        OSError: There is no place for it: nothing that could be it can be written.
    """
    problem: OSError | None = None
    for folder in _candidates():
        try:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check_private(folder)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
            problem = OSError(errno.EROFS, "cannot be written", str(folder))
        except OSError as error:
            problem = error
    raise problem or OSError(errno.ENOENT, "there is no folder for temporary files")


def runtime_folders() -> list[Path]:
    """Return the folders in which nodes of this user may be, as far as they exist.

    A node that a service manager has started often knows no `XDG_RUNTIME_DIR`, while whoever
    looks for it does.

    Raises:
        ConfigError: Somebody else owns one of them, or can write to it.
    """
    found = [folder for folder in _candidates() if folder.exists()]
    for folder in found:
        _check_private(folder)
    return found


def _candidates() -> Iterator[Path]:
    uid = os.getuid()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    # After `su` the variable often still names another user's folder.
    if os.path.isabs(base) and os.path.isdir(base) and os.stat(base).st_uid == uid:
        yield Path(base) / "noex-mp"
    # Where nothing can be written at all, there is no folder for temporary files.
    with contextlib.suppress(FileNotFoundError):
        # With it come a dozen modules that nobody else here needs.
        import tempfile

        yield Path(tempfile.gettempdir()) / f"noex-mp-{uid}"


def _check_private(folder: Path) -> None:
    # lstat: a link that somebody else put there must not lead us anywhere.
    found = os.lstat(folder)
    uid = os.getuid()
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


# --- sockets ------------------------------------------------------------------------------------


def bind_unix(folder: Path, name: str) -> socket.socket:
    """Return a socket that listens at `folder/name`, for this user alone (mode 0600).

    The folder's path may be of any length. What a dead process left under the name is replaced.

    Raises:
        FileExistsError: A running process listens there.
        OSError: The folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux makes the file with the mode of the socket: at no time is it open to others.
        # Elsewhere there is no such mode, and the folder alone keeps others out until the chmod.
        with contextlib.suppress(OSError):
            os.fchmod(listener.fileno(), 0o600)
        with _short_path(folder, name) as path, _locked(folder):
            if not _remove_if_stale(path):
                raise FileExistsError(
                    f"a running process listens at {folder / name}; choose another name"
                )
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return high_socket(listener)


def connect_unix(folder: Path, name: str, patience: int = 5) -> socket.socket:
    """Return a blocking socket connected to `folder/name`; the path may be of any length.

    Args:
        patience: How long to wait where too many others wait already, in seconds.

    Raises:
        FileNotFoundError: There is no such socket.
        ConnectionRefusedError: There is one, but the process that listened there has ended.
        TimeoutError: Too many others wait, and the process takes none of them.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not `settimeout`: for that, a full queue is an error at once.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", patience, 0))
        with _short_path(folder, name) as path:
            client.connect(path)
    except BlockingIOError:
        client.close()
        raise TimeoutError(f"nobody takes connections at {folder / name}") from None
    except BaseException:
        client.close()
        raise
    return client


def remove_stale(folder: Path, name: str) -> None:
    """Remove the file at `folder/name`, unless a process listens there.

    Raises:
        OSError: It cannot be removed.
    """
    with _short_path(folder, name) as path, _locked(folder):
        _remove_if_stale(path)


@contextlib.contextmanager
def _short_path(folder: Path, name: str) -> Generator[str]:
    if len(os.fsencode(name)) > _MAX_NAME or "/" in name:
        raise ValueError(
            f"the name of a socket has at most {_MAX_NAME} bytes and no slash, got {name!r}"
        )
    path = str(folder / name)
    if len(os.fsencode(path)) <= _MAX_PATH or not hasattr(os, "O_PATH"):
        # Preferred: who cleans temporary folders asks the kernel for sockets by their path.
        # And only Linux reaches a folder through its descriptor.
        yield path
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while not _lock(descriptor) and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks.
        pass
    return True


def _remove_if_stale(path: str) -> bool:
    """Return whether the path is free now; it is not if a process listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener whose queue is full is alive too; do not wait for it.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return True
        except ConnectionRefusedError:
            os.unlink(path)
            return True
        except BlockingIOError:
            pass
    return False
