"""The simulator as a client sees it, in a process of its own, and what it refuses."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

import pytest

from engine.errors import ConfigurationError
from engine.readings import Quality, quality_of
from tests.servers.opcua_server import OpcuaServer, ServerFailed
from tests.servers.simulator import simulator as run_simulator
from tests.servers.watching import connected, each_has, read, watch
from workers.opcua.simulation.simulator import (
    DEFAULT_WELLS,
    NAMESPACE_INDEX,
    NAMESPACE_URI,
    node_id,
    serve,
    well_names,
)
from workers.opcua.simulation.wells import TAGS, Well

OIL = 2


def all_ids(server: OpcuaServer) -> list[str]:
    return [variable.node_id for variable in server.variables]


async def test_two_wells_with_five_tags_each_are_served_with_their_types(simulator: OpcuaServer) -> None:
    assert len(simulator.variables) == 10
    for variable, seen in zip(
        simulator.variables, await read(simulator.endpoint, all_ids(simulator)), strict=True
    ):
        assert seen.data_type == ("Null" if seen.value is None else variable.data_type)


async def test_the_wells_are_in_namespace_two(simulator: OpcuaServer) -> None:
    async with connected(simulator.endpoint) as client:
        assert (await client.get_namespace_array())[NAMESPACE_INDEX] == NAMESPACE_URI
    assert simulator.variables[0].node_id == "ns=2;s=Permian.CASING_PRESSURE"


async def test_the_tags_can_be_browsed_with_their_units(simulator: OpcuaServer) -> None:
    async with connected(simulator.endpoint) as client:
        for well in DEFAULT_WELLS:
            for tag in TAGS:
                node = await client.nodes.objects.get_child(["2:Wells", f"2:{well}", f"2:{tag.name}"])
                assert node.nodeid.to_string() == node_id(well, tag.name)
                units = await (await node.get_child("0:EngineeringUnits")).read_value()
                assert units.DisplayName.Text == tag.unit


async def test_every_tag_moves_and_says_when_it_was_sampled(simulator: OpcuaServer) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    log = await watch(simulator.endpoint, all_ids(simulator), each_has(5, nodes=10))
    for node, seen in log.items():
        assert len({one.value for one in seen}) > 1, node
        assert all(one.source_time < other.source_time for one, other in pairwise(seen)), node
        assert before < seen[0].source_time <= datetime.now(UTC)
        assert all(one.server_time == one.source_time for one in seen)


async def test_the_values_are_those_of_the_wells_with_that_seed() -> None:
    oil = node_id("Permian", "OIL_FLOW_RATE")
    with run_simulator(seed=11, rate_hz=20) as server:
        log = await watch(server.endpoint, [oil], each_has(10, nodes=1))
    well = Well("Permian", seed=11)
    expected = [well.step(1 / 20)[OIL].value for _ in range(2_000)]
    got = [seen.value for seen in log[oil]]
    start = expected.index(got[0])  # type: ignore[arg-type]
    assert got == expected[start : start + len(got)]


async def test_bad_samples_have_no_value_and_uncertain_ones_do() -> None:
    seed = next(seed for seed in count() if _sent(seed, first_s=2, last_s=6) == set(Quality))
    with run_simulator(seed=seed, rate_hz=20) as server:
        log = await watch(
            server.endpoint,
            all_ids(server),
            lambda log: {quality_of(one.status) for seen in log.values() for one in seen} == set(Quality),
        )
    for one in (one for seen in log.values() for one in seen):
        assert (one.value is None) == (quality_of(one.status) is Quality.BAD)


async def test_more_wells_can_be_had_for_load_tests() -> None:
    assert well_names(1) == ("Permian",)
    with run_simulator(wells=20) as server:
        assert len(server.variables) == 100
        await watch(server.endpoint, all_ids(server), each_has(2, nodes=100))


def test_a_taken_port_is_an_error_of_one_line(simulator: OpcuaServer) -> None:
    port = int(simulator.endpoint.rsplit(":", 1)[1])
    with pytest.raises(ServerFailed) as caught, run_simulator(port=port):
        pass
    assert str(caught.value) == (
        f"simulator ended with status 2: simulate.port: {port} on 127.0.0.1 is taken; choose another with --port"
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"host": "0.0.0.0"}, "simulate.host"),
        ({"host": "plant.example"}, "simulate.host"),
        ({"port": 65_536}, "simulate.port"),
        ({"rate_hz": 0.0}, "simulate.rate_hz"),
        ({"rate_hz": float("nan")}, "simulate.rate_hz"),
        ({"wells": ()}, "simulate.wells"),
        ({"wells": ("Permian", "Permian")}, "simulate.wells"),
    ],
)
async def test_a_wrong_argument_is_refused_by_its_name(wrong: dict[str, object], named: str) -> None:
    arguments = {"port": 0, "stop": asyncio.Event(), "on_ready": lambda _: None} | wrong
    with pytest.raises(ConfigurationError, match=named):
        await serve(**arguments)  # type: ignore[arg-type]


def test_it_ends_in_order_on_sigterm() -> None:
    with run_simulator() as server:
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(5.0) == 0


def _sent(seed: int, *, first_s: int, last_s: int) -> set[Quality]:
    """Return the qualities that both wells send between two moments, at 20 samples a second."""
    wells = [Well(name, seed=seed) for name in DEFAULT_WELLS]
    steps = [[sample for well in wells for sample in well.step(1 / 20)] for _ in range(last_s * 20)]
    return {quality_of(sample.status) for step in steps[first_s * 20 :] for sample in step}
