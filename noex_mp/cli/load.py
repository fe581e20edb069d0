"""Loads a target anew, in a process of its own: this one keeps the modules that it has.

`python -m noex_mp.cli.load 5 6 app:tree shop.toml port=9000` imports the target, and writes what
came of it to descriptor 6, as msgpack. It ends with whoever holds the other end of descriptor 5.
The rest is the configuration: a file or nothing, and options.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from noex_mp.cli.target import Target, load_tree, look_in_this_folder
from noex_mp.errors import ConfigError
from noex_mp.node.sources import own_files
from noex_mp.node.zygotes import Preload
from noex_mp.transport import fds, lifeline

__all__ = ["Loaded", "load_anew", "main"]


class Loaded(NamedTuple):
    """What came of it.

    Attributes:
        files: The application's own files that were imported, also those on the way to an error.
        error: Why it cannot be loaded, for people, or empty.
        tree: The tree, as plain values.
        preload: What a zygote imports for it.
    """

    files: list[str]
    error: str = ""
    tree: dict[str, Any] | None = None
    preload: Preload = Preload()


async def load_anew(
    target: Target, config: str | None = None, options: Sequence[str] = ()
) -> Loaded:
    """Load a target in another process, as its files are now.

    Args:
        target: The tree.
        config: The TOML file with the configuration of its applications, or None.
        options: Options of theirs.
    """
    answer = fds.anonymous_file("noex-mp-loaded")
    # Not a pipe: what it has started may hold that open for ever.
    output = fds.anonymous_file("noex-mp-printed")
    try:
        await _run(answer, output, str(target), config or "", *options)
        data, printed = _content(answer), _content(output)
    finally:
        os.close(answer)
        os.close(output)
    if not data:
        said = printed.decode(errors="replace")
        return Loaded([], f"{target} ended the process that imports it\n\n{said}".rstrip())
    files, error, tree, preload = msgpack.unpackb(data)
    return Loaded(files, error, tree, Preload(*preload))


async def _run(answer: int, output: int, *arguments: str) -> None:
    """Run this module for a target."""
    # The node may be killed while an import takes for ever. Both ends are plain: what the runtime
    # owns is closed in forks, and `create_subprocess_exec` makes one.
    tie, ours = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "noex_mp.cli.load", str(tie), str(answer), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[tie, answer],
            start_new_session=True,
        )
        try:
            await process.wait()
        except asyncio.CancelledError:
            # The node stops.
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
    finally:
        os.close(tie)
        os.close(ours)


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def main(answer_fd: int, text: str, config: str, *options: str) -> None:
    """Load a target, and write what came of it to a descriptor."""
    try:
        look_in_this_folder()
        node, tree = load_tree(Target(text), config or None, options)
        found = node.root_config(sink=lambda label, stream, line: None)
        preload = (found.preload, found.with_main, found.allow_native_threads)
        loaded: list[Any] = [own_files(found.preload), "", tree, preload]
    except ConfigError as error:
        files = {*own_files(), *_files_behind(error)}
        loaded = [sorted(files), str(error), None, ()]
    with open(answer_fd, "wb") as answer:
        answer.write(msgpack.packb(loaded))


def _files_behind(error: BaseException) -> Iterator[str]:
    """Yield the files that an error has come through; modules that failed are not kept."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, SyntaxError) and cause.filename:
            yield cause.filename
        for frame in traceback.extract_tb(cause.__traceback__):
            if os.path.isfile(frame.filename):
                yield frame.filename
        cause = cause.__cause__ or cause.__context__


if __name__ == "__main__":
    lifeline.arm(int(sys.argv[1]))
    main(int(sys.argv[2]), *sys.argv[3:])
    # With what the target has started when it was imported; a thread would keep this process.
    os.killpg(os.getpid(), signal.SIGKILL)
