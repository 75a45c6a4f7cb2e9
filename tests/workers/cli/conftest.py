"""The command line as a user runs it: a process of its own, in an environment without settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.settings import SEED_NAMES

ROOT = Path(__file__).resolve().parents[3]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def bare_environment(**variables: str) -> dict[str, str]:
    """Return our environment without any setting of the engine, plus `variables`; modules are found anywhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in SEED_NAMES and not name.startswith("SCADA_")
    }
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    return kept | {"PYTHONPATH": path} | variables


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A function that runs `scada-engine` with arguments in an empty folder, and returns what came of it."""

    def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            cwd=tmp_path,
            env=bare_environment(**variables),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run
