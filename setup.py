"""Build the compiled hot path: one extension, `engine._fastpath`, included from its parts in engine/fastpath/.

SCADA_BUILD_SANITIZE=address builds it with AddressSanitizer (see docs/development.md).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

PARTS = sorted(str(part) for part in Path("engine/fastpath").glob("*.px[id]"))

compile_args = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
link_args: list[str] = []
if sanitizer := os.environ.get("SCADA_BUILD_SANITIZE"):
    compile_args += [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g", "-O1"]
    link_args += [f"-fsanitize={sanitizer}"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "engine._fastpath",
                ["engine/_fastpath.pyx"],
                depends=PARTS,
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )
)
