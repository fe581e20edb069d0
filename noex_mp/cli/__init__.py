"""The command line: `noex-mp run`, `call` and `ps`."""

from __future__ import annotations
