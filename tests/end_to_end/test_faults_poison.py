"""Readings that a database cannot hold or refuses: they are in the quarantine, each once, and the rest is stored.

Rows 31 to 34 of the catalogue in docs/faults.md.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from pathlib import Path

from tests.end_to_end.engine_process import until
from tests.end_to_end.loaded_engine import LoadedEngine, loaded_engine
from tests.end_to_end.oracle import hold, tally, wait_stored
from tests.end_to_end.tenant_database import change
from tests.servers.databases import MasterAndTenant

_REFUSE = "alter table readings add constraint poison check ({condition}) not valid"
_QUARANTINED = """
select opc_node_id, value, reason, sqlstate from reading_quarantine left join tag_mappings using (tag_id)
"""


def _tag_id(loaded: LoadedEngine, node_id: str) -> int:
    return int(loaded.plant.rows("select tag_id from tag_mappings where opc_node_id = %s", node_id)[0][0])


def _finish_without(loaded: LoadedEngine, quarantined: set[tuple[str, float]]) -> None:
    """Stop, and see that every step of every counter is either stored or quarantined, once."""
    last = hold(loaded.server)
    wait_stored(loaded.plant, loaded.counters, last)
    assert loaded.engine.stop() == 0, loaded.engine.log.read_text()
    for node_id, held in tally(loaded.plant, loaded.counters).items():
        assert held.twice == 0
        assert held.lost == sum(node == node_id for node, _ in quarantined), node_id


def test_one_poisoned_row_is_quarantined_and_the_rest_of_its_batch_is_stored(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path) as loaded:
        node_id = loaded.counters[3].node_id
        step = tally(loaded.plant, loaded.counters)[node_id].last + 60
        refused = f"not (tag_id = {_tag_id(loaded, node_id)} and value = {step})"
        change(databases, _REFUSE.format(condition=refused))
        found = until("a row is quarantined", lambda: loaded.plant.rows(_QUARANTINED))
        assert found == [(node_id, step, "rejected", "23514")]
        assert loaded.metric("scada_readings_quarantined_total") == 1
        assert loaded.metric("scada_stream_held") == 0
        _finish_without(loaded, {(node_id, step)})


def test_a_rule_that_refuses_too_much_holds_the_stream_and_quarantines_nothing(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    with loaded_engine(databases, tmp_path, variables=50) as loaded:
        change(databases, _REFUSE.format(condition="status > 0"))
        until("the stream is held", lambda: loaded.metric("scada_stream_held") == 1)
        loaded.receives()
        change(databases, "alter table readings drop constraint poison")
        until("the stream goes on", lambda: loaded.metric("scada_stream_held") == 0)
        assert loaded.plant.rows(_QUARANTINED) == []
        loaded.finish()


# As open62541 encodes these fixed values, and what becomes of them on the way, as long as before.
_TEXTS = {
    "ns=1;s=type.String": (b"tank \xe2\x82\xac 7", b"tank \x00\x01\x02 7"),
    "ns=1;s=type.LocalizedText": (b"running", b"r\xff\xfe\xfding"),
}


def test_texts_that_postgresql_cannot_hold_are_quarantined_as_they_came(
    plain_databases: MasterAndTenant, tmp_path: Path
) -> None:
    def spoil(data: bytes) -> bytes:
        for proper, spoiled in _TEXTS.values():
            data = data.replace(proper, spoiled)
        return data

    with loaded_engine(plain_databases, tmp_path, also=list(_TEXTS), tamper=spoil) as loaded:
        until("the texts are quarantined", lambda: loaded.metric("scada_readings_quarantined_total") == 2)
        found = loaded.plant.rows(
            "select opc_node_id, text_bytes, reason from reading_quarantine join tag_mappings using (tag_id)"
        )
        assert set(found) == {(node_id, spoiled, "text") for node_id, (_, spoiled) in _TEXTS.items()}
        loaded.finish()


# Variants as open62541 encodes them, and the year for the source timestamp behind each, in 100 ns since 1601.
_DATES = {
    "ns=1;s=type.Int64": (struct.pack("<Bq", 8, -1234567890123), 1601),
    "ns=1;s=type.UInt64": (struct.pack("<BQ", 9, 1234567890123), 1970),
    "ns=1;s=type.Int64.big": (struct.pack("<Bq", 8, 2**53 + 1), 2500),
    "ns=1;s=type.Double": (struct.pack("<Bd", 11, -2.25), 9999),
}
_1601 = datetime(1601, 1, 1, tzinfo=UTC)


def test_absurd_timestamps_are_quarantined_and_make_no_chunks(
    databases: MasterAndTenant, tmp_path: Path
) -> None:
    def date(data: bytes) -> bytes:
        for variant, year in _DATES.values():
            place = data.find(variant)
            if place >= 0:
                ticks = int((datetime(year, 6, 1, tzinfo=UTC) - _1601).total_seconds()) * 10_000_000
                begin = place + len(variant)
                data = data[:begin] + struct.pack("<q", ticks) + data[begin + 8 :]
        return data

    with loaded_engine(databases, tmp_path, also=list(_DATES), tamper=date) as loaded:
        until("all are quarantined", lambda: loaded.metric("scada_readings_quarantined_total") == len(_DATES))
        found = loaded.plant.rows(
            "select opc_node_id, reason from reading_quarantine join tag_mappings using (tag_id)"
        )
        assert set(found) == {(node_id, "timestamp") for node_id in _DATES}
        # What is stored is of one day, at most two.
        assert loaded.plant.rows("select count(*) from show_chunks('readings')")[0][0] <= 2
        loaded.finish()
