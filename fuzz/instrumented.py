"""The compiled code with coverage counters and AddressSanitizer, in a copy of the sources: build/fuzz.

Owns the building of it, by clang, and the environment that a fuzzer has to run in. The extension in use stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "fuzz"
CORPUS = ROOT / "fuzz" / "corpus"
_SANITIZERS = "fuzzer-no-link,address"
_BUILD_DEADLINE_S = 600


class CannotFuzz(Exception):
    """Something that fuzzing needs is missing; the message says what to install."""


def preload() -> Path:
    """Return AddressSanitizer's library as atheris brings it. Raises CannotFuzz."""
    found = importlib.util.find_spec("atheris")
    if found is None or found.origin is None:
        raise CannotFuzz("atheris is not installed: pip install 'scada-engine[fuzz]'")
    library = Path(found.origin).parents[1] / "asan_with_fuzzer.so"
    if not library.exists():
        raise CannotFuzz(f"this atheris comes without {library.name}: it exists for Linux on x86-64 only")
    return library


def environment() -> dict[str, str]:
    """Return what a process that fuzzes needs around it."""
    return os.environ | {
        "LD_PRELOAD": str(preload()),
        # Python's own allocator would hide a read behind a block's end. What is left at the end is Python's habit.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONPATH": str(PLACE),
    }


def build() -> None:
    """Compile what has changed since the last time. Raises CannotFuzz with the compiler's words."""
    if shutil.which("clang") is None:
        raise CannotFuzz("clang is not installed. On Debian and Ubuntu: apt install clang")
    PLACE.mkdir(parents=True, exist_ok=True)
    for name in ("tests", "fuzz", "workers"):
        if not (PLACE / name).is_symlink():
            (PLACE / name).symlink_to(ROOT / name)
    shutil.copytree(
        ROOT / "engine",
        PLACE / "engine",
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "_fastpath.c", "_fastpath.html"),
        dirs_exist_ok=True,
    )
    shutil.copy2(ROOT / "setup.py", PLACE)
    if _is_current():
        return
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"],
        cwd=PLACE,
        env=os.environ | {"CC": "clang", "LDSHARED": "clang -shared", "SCADA_BUILD_SANITIZE": _SANITIZERS},
        capture_output=True,
        text=True,
        timeout=_BUILD_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise CannotFuzz(f"engine/_fastpath does not compile for fuzzing:\n{done.stderr[-4_000:]}")


def _is_current() -> bool:
    built = next((PLACE / "engine").glob("_fastpath.*.so"), None)
    if built is None:
        return False
    sources = [
        *(PLACE / "engine" / "fastpath").iterdir(),
        *(PLACE / "engine").glob("_fastpath.p*"),
        PLACE / "setup.py",
    ]
    return all(source.stat().st_mtime <= built.stat().st_mtime for source in sources)
