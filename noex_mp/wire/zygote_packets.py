"""The packets between the root and its zygote, and the zygote's configuration.

Each packet is one msgpack array on a pair of packet sockets; the comment behind each kind lists
the elements that follow it, and the descriptors that travel along. A packet ends at ~200 kB, so
the configuration travels as a file, and what servers are started with does not come here at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgpack

# Root to zygote.
CONFIGURE: Final = 0  # - ; fds: a file that holds the packed configuration, lifeline's read end
# request id, fields; fds: control socket, stdout, stderr, black box, log of names, and the file
# for shared values where there is such a thing. With a field "exec", which holds variables for the
# new interpreter, the worker is executed instead of forked.
FORK: Final = 1
UNLINK: Final = 2  # path: remove this file when the root is gone

# Zygote to root.
PRELOADING: Final = 10  # module: its import begins
READY: Final = 11  # -
PRELOAD_FAILED: Final = 12  # text
FORKED: Final = 13  # request id, os pid; fds: pidfd, where there is such a thing
FORK_FAILED: Final = 14  # request id, errno, text
# os pid, wait status, the most memory that it or a child of it had at any time, in bytes
EXITED: Final = 15

MAX_PACKET: Final = 128 * 1024  # bytes

# One for all: a packer for each packet would begin with 1 MiB of memory.
_packer: Final = msgpack.Packer(unicode_errors="surrogateescape", buf_size=4096)


@dataclass(frozen=True, kw_only=True)
class ZygoteConfig:
    """What a zygote makes of itself before it forks.

    Attributes:
        sys_path: `sys.path` of the root as of node start.
        cwd: Its current folder.
        argv: Its `sys.argv`.
        environ: Its environment. The zygote is started with it, but for a PYTHONPATH that leads
            to this package, and puts that right afterwards.
        preload: The modules to import, in this order.
        main_path: The user's script, to be run under the name `__noex_main__`, or None.
        main_name: Instead: the name of the module that the user's program was started from
            (`python -m name`), or None.
        main_later: Do not run the script ahead: a worker does it once it is asked for a class of
            the script.
        allow_native_threads: Threads (by their name) and modules that may leave native threads.
        label: A word for people who look at the list of processes.
        entry: What a worker runs, as `module:function`; it gets a `Boot`.
        unlink: Files to remove when the root is gone.
    """

    sys_path: Sequence[str]
    cwd: str
    environ: Mapping[str, str]
    argv: Sequence[str] = ()
    preload: Sequence[str] = ()
    main_path: str | None = None
    main_name: str | None = None
    main_later: bool = False
    allow_native_threads: Sequence[str] = ()
    label: str = ""
    entry: str = "noex_mp.worker.host:main"
    unlink: Sequence[str] = ()

    def pack(self) -> bytes:
        """Return the configuration as bytes."""
        return pack(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> ZygoteConfig:
        """Return the configuration that `pack` made bytes of."""
        return cls(**unpack(data))


def pack(packet: Any) -> bytes:
    """Return a packet as bytes. Paths and variables that are not UTF-8 survive."""
    data: bytes = _packer.pack(packet)
    return data


def unpack(data: bytes) -> Any:
    """Return the packet that `pack` made bytes of."""
    return msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
