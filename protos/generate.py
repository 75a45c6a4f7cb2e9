"""Make the Python code of protos/scada/**.proto, beside each file; the result is committed.

    python protos/generate.py           write it
    python protos/generate.py --check   write nothing; exit with 1 and the files' names if what is there is not current

The output depends on the version of grpcio-tools, which pyproject.toml pins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate(target: Path) -> None:
    """Write the code of all .proto files under `target`; raises SystemExit when protoc refuses one."""
    sources = sorted(str(proto.relative_to(ROOT)) for proto in ROOT.glob("scada/**/*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *sources]
    if status := subprocess.run(protoc, check=False).returncode:
        raise SystemExit(status)


def stale() -> list[str]:
    """Return the generated files, relative to protos/, that are missing, superfluous or not current."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = _contents(Path(folder)), _contents(ROOT)
    return sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))


def _contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.glob("scada/**/*") if path.name.endswith(SUFFIXES))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def main() -> int:
    """Do what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the code is not current")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    names = stale()
    for name in names:
        print(f"protos/{name} is not current: run python protos/generate.py", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
