"""The model of a well: believable, of the right types, and the same for the same seed."""

from __future__ import annotations

from statistics import correlation, fmean

import pytest

from engine.readings import Quality, quality_of
from workers.opcua.simulation.wells import TAGS, Sample, Well

CASING, TUBING, OIL, GAS, WATER = range(5)
LIMITS = {
    "Double": (0.0, 1e6),
    "Float": (0.0, 1e6),
    "Int32": (-(2**31), 2**31 - 1),
    "UInt16": (0, 2**16 - 1),
}


def run(name: str, *, seed: int = 1, steps: int = 2_000, seconds: float = 1.0) -> list[tuple[Sample, ...]]:
    well = Well(name, seed=seed)
    return [well.step(seconds) for _ in range(steps)]


def good(samples: list[tuple[Sample, ...]], *tags: int) -> list[tuple[float, ...]]:
    """Return the values of the steps at which all of `tags` are Good."""
    return [
        tuple(step[tag].value for tag in tags)  # type: ignore[misc]
        for step in samples
        if all(step[tag].status == 0 for tag in tags)
    ]


def test_the_same_seed_gives_the_same_samples() -> None:
    assert run("Permian", seed=7) == run("Permian", seed=7)


def test_another_seed_or_another_well_gives_other_samples() -> None:
    assert run("Permian", seed=7) != run("Permian", seed=8)
    assert run("Permian", seed=7) != run("Delaware", seed=7)


@pytest.mark.parametrize("name", ["Permian", "Delaware", "Well0003"])
def test_every_value_fits_its_type(name: str) -> None:
    for step in run(name, steps=5_000):
        for tag, sample in zip(TAGS, step, strict=True):
            if sample.value is not None:
                low, high = LIMITS[tag.data_type]
                assert low <= sample.value <= high, tag.name
                assert isinstance(sample.value, float if tag.data_type in {"Double", "Float"} else int), (
                    tag.name
                )


@pytest.mark.parametrize("name", ["Permian", "Delaware"])
def test_the_casing_pressure_is_above_the_tubing_pressure(name: str) -> None:
    assert all(casing > tubing for casing, tubing in good(run(name), CASING, TUBING))


def test_a_slug_raises_the_liquids_and_pushes_the_gas_back() -> None:
    steps = good(run("Delaware"), OIL, WATER, GAS, TUBING)
    # Well away from a shut-in, which moves all rates together.
    oil, water, gas, _ = zip(*(step for step in steps if step[3] < 390), strict=True)
    assert correlation(oil, water) > 0.9
    assert correlation(oil, gas) < -0.5


def test_a_shut_in_stops_the_flow_and_builds_up_pressure() -> None:
    steps = good(run("Permian", steps=5_000), OIL, TUBING)
    closed = [tubing for oil, tubing in steps if oil == 0]
    flowing = [tubing for oil, tubing in steps if oil > 700]
    assert closed, "no shut-in in 5 000 s"
    assert max(closed) > 2 * fmean(flowing)


def test_production_declines_over_the_years() -> None:
    # Steps of one well hour, over a year.
    oil = [value for (value,) in good(run("Permian", steps=24 * 365, seconds=60.0), OIL)]
    assert fmean(oil[-1_000:]) < 0.75 * fmean(oil[:1_000])


def test_a_sensor_is_now_and_then_bad_or_uncertain() -> None:
    statuses = [sample.status for step in run("Permian", steps=5_000) for sample in step]
    shares = {
        quality: sum(quality_of(status) is quality for status in statuses) / len(statuses)
        for quality in Quality
    }
    assert 0.90 < shares[Quality.GOOD] < 0.99
    assert shares[Quality.BAD] > 0.003
    assert shares[Quality.UNCERTAIN] > 0.003


def test_a_sample_has_no_value_exactly_when_it_is_bad() -> None:
    for step in run("Delaware", steps=5_000):
        for sample in step:
            assert (sample.value is None) == (quality_of(sample.status) is Quality.BAD)
