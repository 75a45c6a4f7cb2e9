"""python -m fuzz TARGET: fuzz for a while, bounded; without a name, list the targets. Exit status 1: a finding.

The instrumented copy lies in build/fuzz, with what earlier runs have learned and every finding; `--keep` puts into
fuzz/corpus/TARGET the few small inputs that reach all that is known to be reachable.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import IO

import click

from fuzz.instrumented import CORPUS, PLACE, CannotFuzz, build, environment
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

# One input's bounds: a decoder that needs more of either has a fault.
_INPUT_MOST_S = 10
_MOST_MEMORY_MB = 1_536
_MOST_BYTES = 2_048
_COVERAGE = re.compile(r"^#\d+\s+(?P<event>\w+)\s+cov: (?P<edges>\d+) ft: (?P<features>\d+)")
_EXECUTIONS = "stat::number_of_executed_units"
_LISTING = "\n".join(f"  {name:<14} {(run.__doc__ or '').splitlines()[0]}" for name, run in TARGETS.items())


@click.command(
    help="Fuzz one target, or `all`, under AddressSanitizer with coverage.\n\n\b\nTargets:\n" + _LISTING,
    epilog="Exit status 0: nothing found. 1: a finding; its input is named. 2: wrong usage, or something is missing.",
)
@click.argument("name", required=False)
@click.option("--seconds", default=60, show_default=True, help="How long, for each target.")
@click.option(
    "--keep", is_flag=True, help="Then renew the kept corpus: the smallest inputs for the same coverage."
)
def main(name: str | None, seconds: int, keep: bool) -> None:
    """Run what the command line says."""
    if name is None:
        click.echo("Targets (python -m fuzz NAME, or all):\n" + _LISTING)
        return
    if name != "all" and name not in TARGETS:
        raise click.UsageError(f"there is no target {name!r}; there are: {', '.join(TARGETS)}, all")
    try:
        around = environment()
        build()
    except CannotFuzz as exc:
        raise click.UsageError(str(exc)) from exc
    found = False
    for target in list(TARGETS) if name == "all" else [name]:
        found |= _fuzz(target, seconds, around)
        if keep:
            _keep(target, around)
    sys.exit(1 if found else 0)


def _fuzz(target: str, seconds: int, around: dict[str, str]) -> bool:
    """Fuzz one target and say what came of it; return whether there was a finding."""
    learned, kept, findings = PLACE / "corpus" / target, CORPUS / target, PLACE / "findings"
    for folder in (learned, kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(target).items():
        (learned / name).write_bytes(data)
    log = PLACE / f"{target}.log"
    with log.open("wb") as out:
        status = _run(
            target,
            [
                str(learned),
                str(kept),
                f"-max_total_time={seconds}",
                f"-max_len={_MOST_BYTES}",
                f"-timeout={_INPUT_MOST_S}",
                f"-rss_limit_mb={_MOST_MEMORY_MB}",
                f"-artifact_prefix={findings / target}-",
                "-print_final_stats=1",
            ],
            around,
            out=out,
        )
    lines = log.read_text("utf-8", "replace").splitlines()
    click.echo(f"{target}: {_summary(lines)}")
    if status != 0:
        click.echo(f"{target}: a finding; the end of {log}:", err=True)
        click.echo("\n".join(lines[-40:]), err=True)
    return status != 0


def _summary(lines: list[str]) -> str:
    """Return what libFuzzer says of coverage: what the corpus reached when it began, and what is reached now."""
    said = [found for line in lines if (found := _COVERAGE.search(line))]
    executions = next(
        (line.split()[-1] for line in lines if line.startswith(_EXECUTIONS)), "an unknown number of"
    )
    if not said:
        return f"{executions} executions"
    begun = next((found for found in said if found["event"] == "INITED"), said[0])
    return (
        f"{executions} executions; edges {begun['edges']} -> {said[-1]['edges']}, features {begun['features']} ->"
        f" {said[-1]['features']}"
    )


def _keep(target: str, around: dict[str, str]) -> None:
    """Write the smallest inputs that reach what all of them reach to the kept corpus; what was captured stays."""
    merged = PLACE / "merged" / target
    merged.mkdir(parents=True, exist_ok=True)
    for old in merged.iterdir():
        old.unlink()
    kept = CORPUS / target
    log = PLACE / f"{target}-merge.log"
    with log.open("wb") as out:
        status = _run(
            target,
            ["-merge=1", "-use_counters=0", str(merged), str(kept), str(PLACE / "corpus" / target)],
            around,
            out=out,
        )
    if status != 0:
        raise click.ClickException(f"the corpus of {target} could not be merged, see {log}")
    for old in kept.iterdir():
        if "-" not in old.name:
            old.unlink()
    for new in merged.iterdir():
        (kept / new.name[:16]).write_bytes(new.read_bytes())
    sizes = [each.stat().st_size for each in kept.iterdir()]
    click.echo(f"{target}: {len(sizes)} inputs kept, {sum(sizes)} bytes")


def _run(target: str, arguments: list[str], around: dict[str, str], *, out: IO[bytes]) -> int:
    command = [sys.executable, "-m", "fuzz.run", target, *arguments]
    return subprocess.run(command, cwd=PLACE, env=around, stdout=out, stderr=out, check=False).returncode


if __name__ == "__main__":
    main()
