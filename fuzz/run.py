"""The process that fuzzes: atheris around one target. Started by `python -m fuzz`, in the instrumented copy.

python -m fuzz.run TARGET [arguments of libFuzzer]
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

# Coverage of Python code, too, where text is made; the compiled code has its counters by the compiler.
with atheris.instrument_imports(include=["engine.variants", "engine.structures"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's arguments say that it is enough."""
    name = sys.argv[1]
    # libFuzzer starts itself again to merge, by a shell and by what it takes for its own name.
    atheris.Setup([f"{sys.executable} -m fuzz.run {name}", *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
