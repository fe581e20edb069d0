"""An application for faults under `noex-mp run`."""

from __future__ import annotations

from noex_mp import Supervisor, child
from tests.servers.counters import Counter
from tests.servers.hostile import Hostile, Pump

tree = Supervisor(
    child(Counter).options(name="target"),
    child(Pump).options(name="pump"),
    child(Hostile).options(name="hostile", shutdown=0.2),
    max_restarts=100,
)
