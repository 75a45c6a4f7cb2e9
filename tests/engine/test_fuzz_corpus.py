"""The kept corpus of the fuzzer: every input goes through its target, with all that the target checks."""

from __future__ import annotations

import pytest

from fuzz.instrumented import CORPUS
from fuzz.seeds import seeds
from fuzz.targets import TARGETS


def through(target: str, name: str, data: bytes) -> None:
    """Run one input; a failure names it."""
    try:
        TARGETS[target](data)
    except Exception as exc:
        raise AssertionError(f"{target}: input {name}: {exc!r}") from exc


@pytest.mark.parametrize("target", TARGETS)
def test_every_kept_input_keeps_what_its_target_promises(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for each in inputs:
        through(target, each.name, each.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_keeps_what_its_target_promises(target: str) -> None:
    found = seeds(target)
    assert found
    for name, data in found.items():
        through(target, name, data)


def test_the_corpus_is_small_and_has_no_target_that_is_gone() -> None:
    assert sorted(each.name for each in CORPUS.iterdir()) == sorted(TARGETS)
    assert sum(each.stat().st_size for each in CORPUS.rglob("*")) < 1_000_000
