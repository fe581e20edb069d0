"""What all tests share: the leak plugin, and a runtime folder of our own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Loaded by its entry point where noex-mp is installed; then this names the same plugin again.
pytest_plugins = ["noex_mp.testing.plugin"]

# Another run of these tests, or a node of the same user, keeps its sockets in another folder, so
# that what lies in ours is ours. Set before anything starts, as workers inherit the environment.
_runtime = tempfile.mkdtemp(prefix="nx-")
os.environ["XDG_RUNTIME_DIR"] = _runtime
atexit.register(shutil.rmtree, _runtime, ignore_errors=True)
