"""How a simulated oil well behaves: rates, pressures and sensor faults. Knows nothing of OPC UA servers.

A well runs on its own clock, 60 times faster than the wall: one second of simulation is one minute of the
well, so that slugs, shut-ins and their recovery show within minutes of watching.

The model is small but holds together: rates decline hyperbolically (Arps 1945), liquids arrive in slugs that
push the gas back, the tubing pressure follows the rates, the casing pressure follows the tubing, and a
shut-in stops the flow while both pressures build up; the stored pressure gives a flush of production
afterwards.

Equal names, seeds and steps give equal samples.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import IntEnum

WELL_MINUTES_PER_SECOND = 1.0
MINUTES_PER_YEAR = 365.25 * 24 * 60

MEAN_MINUTES_BETWEEN_SHUT_INS = 600.0
SHUT_IN_MINUTES = (20.0, 60.0)
# Sensor faults run on simulation seconds: with ten tags one starts about every 15 s, and 3 % of samples are
# hit.
MEAN_SECONDS_BETWEEN_FAULTS = 150.0
FAULT_SECONDS = (2.0, 6.0)

VALVE_MINUTES = 2.0
BUILD_UP_MINUTES = 25.0
FLUSH_MINUTES = 8.0
NOISE_MINUTES = 4.0


@dataclass(frozen=True, slots=True)
class TagSpec:
    """One measured quantity of a well; `data_type` is the OPC UA built-in type's name."""

    name: str
    data_type: str
    unit: str


TAGS = (
    TagSpec("CASING_PRESSURE", "Double", "PSI"),
    TagSpec("TUBING_PRESSURE", "Float", "PSI"),
    TagSpec("OIL_FLOW_RATE", "Double", "BBL/D"),
    # Int32 in tenths, as flow computers with integer registers send it; the tag's scaling factor is 0.1.
    TagSpec("GAS_FLOW_RATE", "Int32", "0.1 MCF/D"),
    TagSpec("WATER_FLOW_RATE", "UInt16", "BBL/D"),
)


class Status(IntEnum):
    """The OPC UA StatusCodes that a simulated tag can have (OPC 10000-4, 7.39.2)."""

    GOOD = 0
    UNCERTAIN_LAST_USABLE_VALUE = 0x40900000
    UNCERTAIN_SENSOR_NOT_ACCURATE = 0x40930000
    UNCERTAIN_SUB_NORMAL = 0x40950000
    BAD_NO_COMMUNICATION = 0x80310000
    BAD_SENSOR_FAILURE = 0x808C0000

    @property
    def is_bad(self) -> bool:
        """Whether the sample has no value."""
        return self >= Status.BAD_NO_COMMUNICATION


FAULTS = tuple(status for status in Status if status is not Status.GOOD)


@dataclass(frozen=True, slots=True)
class Sample:
    """A tag's value in its own type and unit, None when the status is Bad."""

    value: float | int | None
    status: Status


@dataclass(frozen=True, slots=True)
class Character:
    """What distinguishes one well from another. Rates are those of its first day."""

    oil_bbl_per_day: float
    gas_mcf_per_bbl: float
    water_bbl_per_bbl: float
    line_psi: float
    shut_in_psi: float
    slug_minutes: float
    decline_per_year: float = 0.9
    decline_exponent: float = 1.1


_CHARACTERS = {
    "Permian": Character(860.0, 1.9, 2.1, line_psi=145.0, shut_in_psi=1_450.0, slug_minutes=42.0),
    "Delaware": Character(1_240.0, 2.8, 3.4, line_psi=210.0, shut_in_psi=2_100.0, slug_minutes=27.0),
}


def character_of(name: str, chance: random.Random) -> Character:
    """Return the well's character: Permian and Delaware have their own, others draw one."""
    return _CHARACTERS.get(name) or Character(
        oil_bbl_per_day=chance.uniform(300.0, 1_500.0),
        gas_mcf_per_bbl=chance.uniform(1.2, 4.0),
        water_bbl_per_bbl=chance.uniform(1.0, 4.0),
        line_psi=chance.uniform(110.0, 260.0),
        shut_in_psi=chance.uniform(1_200.0, 2_400.0),
        slug_minutes=chance.uniform(20.0, 60.0),
    )


class Well:
    """One well: `step` moves it forward and samples its five tags."""

    def __init__(self, name: str, *, seed: int) -> None:
        self._chance = random.Random(f"{seed}/{name}")
        self._character = character_of(name, self._chance)
        self._sensors = tuple(_Sensor(self._chance) for _ in TAGS)
        self._produced_years = self._chance.uniform(0.0, 0.2)
        self._slug_phase = self._chance.uniform(0.0, 2 * math.pi)
        self._noise = [0.0] * len(TAGS)
        self._shut_in_minutes_left = 0.0
        self._valve = 1.0  # 1 open, 0 closed
        self._build_up = 0.0  # 0 flowing, 1 the full shut-in pressure

    def step(self, seconds: float) -> tuple[Sample, ...]:
        """Move on by `seconds` of simulation and return one sample per tag, in the order of TAGS."""
        self._move(seconds * WELL_MINUTES_PER_SECOND)
        return tuple(
            sensor.read(_in_type(spec, value), seconds)
            for spec, sensor, value in zip(TAGS, self._sensors, self._measure(), strict=True)
        )

    def _move(self, minutes: float) -> None:
        self._shut_in_minutes_left = max(0.0, self._shut_in_minutes_left - minutes)
        if self._chance.random() < minutes / MEAN_MINUTES_BETWEEN_SHUT_INS and not self._shut_in_minutes_left:
            self._shut_in_minutes_left = self._chance.uniform(*SHUT_IN_MINUTES)
        closed = self._shut_in_minutes_left > 0

        valve = _approach(self._valve, 0.0 if closed else 1.0, minutes / VALVE_MINUTES)
        self._valve = valve if valve > 0.001 else 0.0
        build_up_minutes = BUILD_UP_MINUTES if closed else FLUSH_MINUTES
        self._build_up = _approach(self._build_up, float(closed), minutes / build_up_minutes)
        self._produced_years += self._valve * minutes / MINUTES_PER_YEAR
        # The period wanders, so that two wells never stay in step.
        turns = minutes / self._character.slug_minutes * self._chance.uniform(0.7, 1.3)
        self._slug_phase = (self._slug_phase + 2 * math.pi * turns) % (2 * math.pi)
        keep = math.exp(-minutes / NOISE_MINUTES)
        spread = math.sqrt(1.0 - keep * keep)
        self._noise = [keep * noise + spread * self._chance.gauss(0.0, 1.0) for noise in self._noise]

    def _measure(self) -> tuple[float, ...]:
        """Return casing and tubing PSI, oil BBL/D, gas MCF/D and water BBL/D, before the sensors."""
        character = self._character
        decline = (1 + character.decline_exponent * character.decline_per_year * self._produced_years) ** (
            -1 / character.decline_exponent
        )
        slug = math.sin(self._slug_phase) * self._valve
        casing_noise, tubing_noise, oil_noise, gas_noise, water_noise = self._noise

        flow = character.oil_bbl_per_day * decline * self._valve * (1 + 0.5 * self._build_up)
        oil = flow * (1 + 0.18 * slug + 0.015 * oil_noise)
        water = flow * character.water_bbl_per_bbl * (1 + 0.22 * slug + 0.02 * water_noise)
        gas = flow * character.gas_mcf_per_bbl * (1 - 0.10 * slug + 0.01 * gas_noise)

        flowing_psi = character.line_psi + 0.15 * flow
        tubing = flowing_psi + (character.shut_in_psi - flowing_psi) * self._build_up - 14.0 * slug
        # The liquid in the tubing keeps the casing above it; a slug makes that column heavier.
        casing = tubing + 0.12 * character.shut_in_psi * decline * (1 - 0.5 * self._build_up) + 22.0 * slug
        return casing + 1.5 * casing_noise, tubing + 1.0 * tubing_noise, oil, gas, water


class _Sensor:
    """A sensor that fails now and then, in one of the ways of FAULTS, for a few seconds."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._seconds_left = 0.0
        self._status = Status.GOOD
        self._last: float | int | None = None

    def read(self, value: float | int, seconds: float) -> Sample:
        """Return what the sensor makes of the true value."""
        self._seconds_left -= seconds
        if self._seconds_left <= 0:
            self._status = Status.GOOD
            if self._chance.random() < seconds / MEAN_SECONDS_BETWEEN_FAULTS:
                self._status = self._chance.choice(FAULTS)
                self._seconds_left = self._chance.uniform(*FAULT_SECONDS)
        if self._status.is_bad:
            return Sample(None, self._status)
        if self._status is Status.UNCERTAIN_LAST_USABLE_VALUE and self._last is not None:
            return Sample(self._last, self._status)
        if self._status is Status.UNCERTAIN_SENSOR_NOT_ACCURATE:
            value = type(value)(value * self._chance.uniform(0.93, 1.07))
        self._last = value
        return Sample(value, self._status)


def _approach(value: float, target: float, time_constants: float) -> float:
    return target + (value - target) * math.exp(-time_constants)


def _in_type(spec: TagSpec, value: float) -> float | int:
    """Convert a measurement to its tag's type; a rate is never below zero."""
    value = max(0.0, value)
    match spec.data_type:
        case "Int32":
            return round(value * 10)
        case "UInt16":
            return min(round(value), 65_535)
        case _:
            return value
