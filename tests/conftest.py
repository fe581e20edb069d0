"""What all tests share: the leak plugin, and a runtime folder of our own."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from noex_mp.transport.platform import FALLBACKS

# Loaded by its entry point where noex-mp is installed; then this names the same plugin again.
pytest_plugins = ["noex_mp.testing.plugin"]

# No test fails because the machine is slow.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Another run of these tests, or a node of the same user, keeps its sockets in another folder, so
# that what lies in ours is ours. The command line also looks in the folder for temporary files.
# Set before anything starts, as workers inherit the environment.
_runtime = tempfile.mkdtemp(
    prefix="nx-",
    # Beside that of the pytest that has started this one, not below it: another user, as whom a
    # test acts, must get as far as to ours.
    dir=Path(os.environ["TMPDIR"]).parent if "PYTEST_XDIST_WORKER" in os.environ else None,
)
os.environ["XDG_RUNTIME_DIR"] = os.environ["TMPDIR"] = _runtime
# What joblib keeps there, else in /dev/shm, other tests of the same machine would take for a leak.
os.environ["JOBLIB_TEMP_FOLDER"] = _runtime
atexit.register(shutil.rmtree, _runtime, ignore_errors=True)


def _stay(number: int, frame: object) -> None:
    """Go on, as if the signal were ignored."""


# A run in the background, or below nohup, has been told to ignore these, and so would be all
# programs that the tests start. A handler of Python's own is not handed down.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, _stay)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("linux_only")
        if marker is not None and FALLBACKS:
            item.add_marker(pytest.mark.skip(reason=f"fall-backs: {marker.args[0]}"))
