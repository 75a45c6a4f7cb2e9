"""What an OPC UA server says that it sent, against what the tenant's database holds.

The counters of open62541 step together, by one, and every step is queued for every subscriber. So for each counter the
values in the database must be whole numbers, each once, from the first that was stored to the last that the server
counted; what is missing must lie in a gap that says so. Nothing else is needed to see what was lost or stored twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.end_to_end.engine_process import until
from tests.end_to_end.plant import Plant
from tests.servers.databases import run
from tests.servers.opcua_server import OpcuaServer, ServedVariable
from tests.servers.watching import read

# One pass over the readings, however many there are.
_COUNTED = """
select opc_node_id, count(*), count(distinct value), min(value), max(value)
from readings join tag_mappings using (tag_id) where opc_node_id = any(%s) group by opc_node_id
"""
_TWICE = """
select value, count(*) from readings join tag_mappings using (tag_id) where opc_node_id = %s
group by value having count(*) > 1 order by value limit 20
"""
# Steps on both sides of those that are missing, where no gap covers the time between them unless that is forgiven.
_MISSING = """
with steps as (
    select opc_node_id, tag_id, ts, value, lead(value) over by_value as next_value, lead(ts) over by_value as next_ts
    from readings join tag_mappings using (tag_id) where opc_node_id = any(%s)
    window by_value as (partition by tag_id order by value)
)
select opc_node_id, value, next_value, ts::text, next_ts::text from steps s
where next_value > value + 1 and not (%s and exists (
    select from reading_gaps g where g.tag_id = s.tag_id and g."from" <= s.ts and g."to" >= s.next_ts
))
order by opc_node_id, value limit 20
"""
_STANDS_STILL_S = 0.3


@dataclass(frozen=True, slots=True)
class Tally:
    """One counter in the database: rows, different values among them, and the outermost ones."""

    rows: int
    values: int
    first: float
    last: float

    @property
    def lost(self) -> int:
        """Steps between the first and the last that are not there."""
        return int(self.last - self.first) + 1 - self.values

    @property
    def twice(self) -> int:
        """Rows too many."""
        return self.rows - self.values


def tally(plant: Plant, counters: Sequence[ServedVariable]) -> dict[str, Tally]:
    """Return what the database holds of each counter, by node id."""
    found = plant.rows(_COUNTED, [counter.node_id for counter in counters])
    return {node_id: Tally(*numbers) for node_id, *numbers in found}


def hold(server: OpcuaServer) -> float:
    """Stop the server's counters and return the step that they stand at."""
    server.hold()
    counter = server.moving[0].node_id
    last = -1.0

    def stands_still() -> bool:
        nonlocal last
        before, last = last, float(str(run(read(server.endpoint, [counter]))[0].value))
        if last != before:
            # The server obeys soon: a step may be on its way yet.
            time.sleep(_STANDS_STILL_S)
        return last == before

    until("the counters stand still", stands_still)
    return last


def wait_stored(
    plant: Plant, counters: Sequence[ServedVariable], last: float, *, timeout_s: float = 30.0
) -> None:
    """Wait until the last step of every counter is stored."""

    def missing() -> list[str]:
        held = tally(plant, counters)
        return [
            each.node_id for each in counters if each.node_id not in held or held[each.node_id].last < last
        ]

    try:
        until(
            f"step {last:.0f} of every counter is stored",
            lambda: not missing(),
            timeout_s=timeout_s,
            poll_s=0.1,
        )
    except AssertionError as exc:
        late = missing()
        raise AssertionError(f"{exc}; {len(late)} counters are not there yet, among them {late[:3]}") from exc


def check_whole(plant: Plant, counters: Sequence[ServedVariable], last: float, *, gaps: bool = False) -> int:
    """See that each counter is there up to `last`: nothing lost, nothing twice. Return the number of readings.

    With `gaps`, what is missing is forgiven where a gap covers it; without, there must be no gap at all.
    """
    held = tally(plant, counters)
    assert set(held) == {counter.node_id for counter in counters}
    for node_id, found in held.items():
        assert found.last == last, f"{node_id}: the last step is {found.last}, the server counted to {last}"
        assert found.twice == 0, f"{node_id}: {found.twice} rows twice: {plant.rows(_TWICE, node_id)}"
    if lost := [node_id for node_id, found in held.items() if found.lost]:
        unexplained = plant.rows(_MISSING, lost, gaps)
        recorded = plant.gaps(unexplained[0][0]) if unexplained else []
        assert not unexplained, f"steps are lost between {unexplained}; the first one's gaps: {recorded}"
    if not gaps:
        assert plant.rows("select * from reading_gaps limit 5") == []
    return sum(found.rows for found in held.values())
