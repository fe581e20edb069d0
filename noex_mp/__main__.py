"""`python -m noex_mp`: the command line, as `noex-mp`."""

from __future__ import annotations

import sys

from noex_mp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
