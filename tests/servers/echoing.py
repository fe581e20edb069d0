"""A server that gives back what it gets."""

from __future__ import annotations

import ctypes
from typing import Any

from noex_mp import GenServer, call
from tests.wire.registered import Guarded, Moody
from tests.wire.samples import Plain


class Echo(GenServer):
    @call
    def echo(self, value: Any) -> Any:
        return value

    @call
    def kind(self, value: Any) -> str:
        return f"{type(value).__module__}:{type(value).__qualname__}"

    @call
    def view(self) -> Any:
        return memoryview(ctypes.c_int(3))

    @call
    def moody(self, content: str) -> Moody:
        return Moody(content)

    @call
    def unsent(self, allow_pickle: bool) -> Any:
        return {"rows": [Guarded(n for n in (1, 2)) if allow_pickle else Plain(1)]}
