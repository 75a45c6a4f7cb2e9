"""One child of the supervisor alone, without a supervisor: a process that begins as a child does after its fork.

python -m tests.workers.one_child KIND SETTINGS_FD PAGE_FD PARENT_PID
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

from engine.metrics import MetricsPage, ProcessKind
from engine.settings import Settings
from workers.child import begin
from workers.supervisor import inherited_settings


def start_alone(
    kind: ProcessKind, settings: Settings, page: MetricsPage, **options: Any
) -> subprocess.Popen[Any]:
    """Start the child of index 0; `options` are Popen's."""
    settings_fd = os.memfd_create("settings", 0)
    os.write(settings_fd, pickle.dumps(settings))
    arguments = [kind.value, str(settings_fd), str(page.fd), str(os.getpid())]
    try:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments], pass_fds=(settings_fd, page.fd), **options
        )
    finally:
        os.close(settings_fd)


if __name__ == "__main__":
    settings_fd, page_fd, parent_pid = map(int, sys.argv[2:5])
    settings = inherited_settings(settings_fd)
    sys.exit(begin(ProcessKind(sys.argv[1]), 0, settings=settings, page_fd=page_fd, parent_pid=parent_pid))
