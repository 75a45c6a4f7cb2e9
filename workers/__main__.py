"""The supervisor's process: `scada-engine run` becomes `python -m workers SETTINGS_FD` (workers.supervisor)."""

from __future__ import annotations

import sys

from workers import logs
from workers.child import set_title
from workers.supervisor import Supervisor, inherited_settings


def main(argv: list[str]) -> int:
    """Run the engine with the settings behind an inherited descriptor; return the exit status."""
    settings = inherited_settings(int(argv[0]))
    logs.configure(settings, process="supervisor", index=0)
    set_title("scada-engine")
    return Supervisor(settings).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
