"""An OPC UA server of oil wells, for `make run`, demonstrations and tests. The wells are in wells.py.

Address space: Objects/Wells/<well>/<tag>, namespace 2, node ids `ns=2;s=<well>.<tag>`; each tag has an
EngineeringUnits property. Every tag is sampled `rate_hz` times a second, with source and server timestamp at
the sample. A Bad sample has a null value (OPC 10000-4, 7.11).

Security is None and anyone may connect: it listens on loopback addresses only and refuses others. It uses one
thread, and every sample is a notification whatever sampling interval a client asks for: it is for
demonstrations and functional tests, not for measuring throughput.

`python -m workers.opcua.simulation.simulator --port 0` prints READY and the endpoint's address.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import ipaddress
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC

import structlog
from asyncua import ua
from asyncua.server.server import Server

from engine.errors import ConfigurationError
from workers.opcua.simulation.wells import TAGS, Sample, TagSpec, Well

DEFAULT_WELLS = ("Permian", "Delaware")
DEFAULT_PORT = 4840
NAMESPACE_URI = "urn:scada-engine:simulator:wells"
APPLICATION_URI = "urn:scada-engine:simulator"
# asyncua owns namespace 1 (the application); ours is the first one registered after it.
NAMESPACE_INDEX = 2
STOP_DEADLINE_S = 5.0

_logger = structlog.get_logger(__name__)


def node_id(well: str, tag: str) -> str:
    """Return the node id of a well's tag, as a client writes it."""
    return f"ns={NAMESPACE_INDEX};s={well}.{tag}"


def well_names(count: int) -> tuple[str, ...]:
    """Return `count` well names: Permian, Delaware, then numbered ones for load tests."""
    return (*DEFAULT_WELLS, *(f"Well{number:04}" for number in range(len(DEFAULT_WELLS) + 1, count + 1)))[
        :count
    ]


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    wells: Sequence[str] = DEFAULT_WELLS,
    rate_hz: float = 1.0,
    seed: int = 0,
    stop: asyncio.Event,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the wells until `stop` is set; call `on_ready` with the endpoint once clients can connect.

    Port 0 takes a free one. Raises ConfigurationError for a host that is not loopback, a port that is taken
    or outside 0..65535, a rate outside 0..1000 samples a second, and well names that are empty or repeated.
    """
    _check(host=host, port=port, wells=wells, rate_hz=rate_hz)
    logging.getLogger("asyncua").setLevel(logging.WARNING)
    server = await _loaded_server()
    server.set_endpoint(_address(host, port))
    nodes = await _add_wells(server, wells)
    models = [Well(name, seed=seed) for name in wells]
    await _sample(server, models, nodes, seconds=1 / rate_hz)
    await _listen(server, host=host, port=port)
    try:
        bound_port = server.bserver.port if server.bserver else port
        _logger.info("simulator listens", endpoint=_address(host, bound_port), wells=len(wells))
        on_ready(_address(host, bound_port))
        await _run(server, models, nodes, rate_hz=rate_hz, stop=stop)
    finally:
        async with asyncio.timeout(STOP_DEADLINE_S):
            await server.stop()


def _check(*, host: str, port: int, wells: Sequence[str], rate_hz: float) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigurationError(
            f"simulate.host: {host!r} is not a loopback address; the simulator has no security, use 127.0.0.1"
        )
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"simulate.port: {port} is not a port, 0 to 65535")
    if not 0 < rate_hz <= 1_000:
        raise ConfigurationError(f"simulate.rate_hz: {rate_hz} is not above 0 and at most 1000")
    if not wells or not all(wells) or len(set(wells)) != len(wells):
        raise ConfigurationError(f"simulate.wells: {list(wells)} must be one or more names, each one once")


def _address(host: str, port: int) -> str:
    return f"opc.tcp://[{host}]:{port}" if ":" in host else f"opc.tcp://{host}:{port}"


async def _loaded_server() -> Server:
    """Return a server with the standard address space, open to anyone."""
    server = Server()
    server.set_server_name("scada-engine well simulator")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    # The standard address space is a mass of objects that stay for good. Loading them without the collector
    # takes a third less time, and once frozen they do not slow down every later collection.
    gc.disable()
    try:
        await server.init()
    finally:
        gc.enable()
        gc.freeze()
    await server.set_application_uri(APPLICATION_URI)
    index = await server.register_namespace(NAMESPACE_URI)
    assert index == NAMESPACE_INDEX, f"namespace {NAMESPACE_URI} has index {index}"
    return server


async def _add_wells(server: Server, wells: Sequence[str]) -> list[list[ua.NodeId]]:
    """Add the folders and variables; return each well's node ids in the order of TAGS."""
    root = await server.nodes.objects.add_folder(_id("Wells"), _name("Wells"))
    nodes = []
    for well in wells:
        folder = await root.add_folder(_id(well), _name(well))
        ids = [_id(f"{well}.{spec.name}") for spec in TAGS]
        for spec, tag_id in zip(TAGS, ids, strict=True):
            variable = await folder.add_variable(tag_id, _name(spec.name), 0, _type(spec))
            units = ua.EUInformation(
                NAMESPACE_URI, -1, ua.LocalizedText(spec.unit), ua.LocalizedText(spec.unit)
            )
            await variable.add_property(_id(f"{well}.{spec.name}.EngineeringUnits"), _UNITS, units)
        nodes.append(ids)
    return nodes


def _id(name: str) -> ua.NodeId:
    return ua.NodeId(ua.String(name), ua.Int16(NAMESPACE_INDEX))


def _name(name: str) -> ua.QualifiedName:
    return ua.QualifiedName(name, NAMESPACE_INDEX)


_UNITS = ua.QualifiedName("EngineeringUnits", 0)


def _type(spec: TagSpec) -> ua.VariantType:
    return ua.VariantType[spec.data_type]


async def _listen(server: Server, *, host: str, port: int) -> None:
    # asyncua logs the failed bind with a traceback and raises it as well; the raised one is enough.
    noisy = logging.getLogger("asyncua.server.server")
    noisy.disabled = True
    try:
        await server.start()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"simulate.port: {port} on {host} is taken; choose another with --port"
            ) from exc
        raise ConfigurationError(f"simulate: cannot listen on {host}:{port}: {exc.strerror}") from exc
    finally:
        noisy.disabled = False


async def _run(
    server: Server, models: list[Well], nodes: list[list[ua.NodeId]], *, rate_hz: float, stop: asyncio.Event
) -> None:
    """Sample at a steady pace until `stop` is set."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not stop.is_set():
        # A server that falls behind skips sampling times; a field device does not catch up in a burst either.
        due = max(due + 1 / rate_hz, loop.time())
        try:
            async with asyncio.timeout_at(due):
                await stop.wait()
        except TimeoutError:
            await _sample(server, models, nodes, seconds=1 / rate_hz)


async def _sample(
    server: Server, models: list[Well], nodes: list[list[ua.NodeId]], *, seconds: float
) -> None:
    for model, ids in zip(models, nodes, strict=True):
        now = ua.DateTime.now(UTC)
        for tag_id, spec, sample in zip(ids, TAGS, model.step(seconds), strict=True):
            await server.write_attribute_value(tag_id, _data_value(spec, sample, now))


def _data_value(spec: TagSpec, sample: Sample, now: ua.DateTime) -> ua.DataValue:
    value = ua.Variant() if sample.value is None else ua.Variant(sample.value, _type(spec))
    return ua.DataValue(value, ua.StatusCode(ua.UInt32(sample.status)), now, now)


async def _serve_process(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    await serve(
        host=arguments.host,
        port=arguments.port,
        wells=well_names(arguments.wells),
        rate_hz=arguments.rate_hz,
        seed=arguments.seed,
        stop=stop,
        on_ready=lambda endpoint: print("READY", endpoint, flush=True),
    )


def main() -> int:
    """Run the simulator as a process of its own; `scada-engine simulate` is the command for people."""
    parser = argparse.ArgumentParser(prog="python -m workers.opcua.simulation.simulator")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--wells", type=int, default=len(DEFAULT_WELLS))
    parser.add_argument("--rate-hz", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-stdin-closes", action="store_true")
    try:
        asyncio.run(_serve_process(parser.parse_args()))
    except ConfigurationError as exc:
        print(exc, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
