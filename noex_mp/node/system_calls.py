"""The names of system calls in which a process may wait, by machine and number."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["name_of"]

# From the kernel's own headers: asm/unistd_64.h, and asm-generic/unistd.h.
_X86_64: Final[dict[int, str]] = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 6: "lstat", 7: "poll",
    9: "mmap", 10: "mprotect", 11: "munmap", 15: "rt_sigreturn", 16: "ioctl", 17: "pread64",
    18: "pwrite64", 19: "readv", 20: "writev", 21: "access", 23: "select", 24: "sched_yield",
    25: "mremap", 26: "msync", 28: "madvise", 34: "pause", 35: "nanosleep", 40: "sendfile",
    42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg",
    56: "clone", 58: "vfork", 59: "execve", 61: "wait4", 65: "semop", 69: "msgsnd",
    70: "msgrcv", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 86: "link", 87: "unlink", 89: "readlink",
    128: "rt_sigtimedwait", 130: "rt_sigsuspend", 137: "statfs", 138: "fstatfs", 162: "sync",
    165: "mount", 166: "umount2", 202: "futex", 208: "io_getevents", 217: "getdents64",
    219: "restart_syscall", 220: "semtimedop", 230: "clock_nanosleep", 232: "epoll_wait",
    242: "mq_timedsend", 243: "mq_timedreceive", 247: "waitid", 257: "openat", 258: "mkdirat",
    262: "newfstatat", 263: "unlinkat", 265: "linkat", 266: "symlinkat", 267: "readlinkat",
    269: "faccessat", 270: "pselect6", 271: "ppoll", 275: "splice", 276: "tee",
    277: "sync_file_range", 278: "vmsplice", 280: "utimensat", 281: "epoll_pwait",
    282: "signalfd", 285: "fallocate", 288: "accept4", 295: "preadv", 296: "pwritev",
    299: "recvmmsg", 306: "syncfs", 307: "sendmmsg", 310: "process_vm_readv", 316: "renameat2",
    318: "getrandom", 323: "userfaultfd", 324: "membarrier", 326: "copy_file_range",
    332: "statx", 333: "io_pgetevents", 426: "io_uring_enter", 435: "clone3", 437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
_AARCH64: Final[dict[int, str]] = {
    4: "io_getevents", 22: "epoll_pwait", 25: "fcntl", 29: "ioctl", 32: "flock", 34: "mkdirat",
    35: "unlinkat", 36: "symlinkat", 37: "linkat", 39: "umount2", 40: "mount", 43: "statfs",
    44: "fstatfs", 45: "truncate", 46: "ftruncate", 47: "fallocate", 48: "faccessat",
    56: "openat", 57: "close", 61: "getdents64", 63: "read", 64: "write", 65: "readv",
    66: "writev", 67: "pread64", 68: "pwrite64", 69: "preadv", 70: "pwritev", 71: "sendfile",
    72: "pselect6", 73: "ppoll", 75: "vmsplice", 76: "splice", 77: "tee", 78: "readlinkat",
    80: "fstat", 81: "sync", 82: "fsync", 83: "fdatasync", 84: "sync_file_range",
    88: "utimensat", 95: "waitid", 98: "futex", 101: "nanosleep", 115: "clock_nanosleep",
    124: "sched_yield", 128: "restart_syscall", 133: "rt_sigsuspend", 137: "rt_sigtimedwait",
    139: "rt_sigreturn", 182: "mq_timedsend", 183: "mq_timedreceive", 188: "msgrcv",
    189: "msgsnd", 192: "semtimedop", 193: "semop", 202: "accept", 203: "connect",
    206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 215: "munmap",
    216: "mremap", 220: "clone", 221: "execve", 222: "mmap", 226: "mprotect", 227: "msync",
    233: "madvise", 242: "accept4", 243: "recvmmsg", 260: "wait4", 267: "syncfs",
    269: "sendmmsg", 270: "process_vm_readv", 276: "renameat2", 278: "getrandom",
    282: "userfaultfd", 283: "membarrier", 285: "copy_file_range", 291: "statx",
    292: "io_pgetevents", 426: "io_uring_enter", 435: "clone3", 437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
_NAMES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(os.uname().machine, {})


def name_of(number: int) -> str:
    """Return what a system call is called; one that is not listed, by its number.

    ```python
    >>> name_of(100_000)
    'system call 100000'

    ```
    """
    return _NAMES.get(number, f"system call {number}")
