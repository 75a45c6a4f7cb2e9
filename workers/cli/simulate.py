"""`scada-engine simulate`: the well simulator in the foreground. The server is opcua.simulation.simulator."""

from __future__ import annotations

import asyncio
import signal

import click

DEFAULT_PORT = 4840


@click.command(short_help="Serve two simulated wells over OPC UA.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="A loopback address; there is no security."
)
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
@click.option("--wells", default=2, show_default=True, type=click.IntRange(1, 1_000), help="Five tags each.")
@click.option("--rate-hz", default=1.0, show_default=True, help="Samples a second of every tag, up to 1000.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal wells.")
def simulate(*, host: str, port: int, wells: int, rate_hz: float, seed: int) -> None:
    """Serve two simulated wells over OPC UA.

    Pressures and rates move as in a well, a few samples are Uncertain or Bad. Ctrl-C ends it.
    """
    asyncio.run(_simulate(host=host, port=port, wells=wells, rate_hz=rate_hz, seed=seed))


async def _simulate(*, host: str, port: int, wells: int, rate_hz: float, seed: int) -> None:
    from workers.opcua.simulation.simulator import serve, well_names  # noqa: PLC0415  (half a second, not for --help)

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    names = well_names(wells)

    def ready(endpoint: str) -> None:
        shown = ", ".join(names[:5]) + (f" and {wells - 5} more" if wells > 5 else "")
        click.echo(f"READY {endpoint} (wells {shown}; {rate_hz:g} samples a second of each tag)")

    await serve(host=host, port=port, wells=names, rate_hz=rate_hz, seed=seed, stop=stop, on_ready=ready)
