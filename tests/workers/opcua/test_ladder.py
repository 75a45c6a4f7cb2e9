"""Where the way back begins, decided from what is known alone."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.errors import ConnectionRefused
from tests.workers.opcua.publishing_script import flow_of
from workers.opcua.resume import Held, Rung, _refused, first_rung


def held(*lifetimes_s: float, **changes: Any) -> Held:
    """Return what was known of a session that was lost at 100 s, with a subscription for each lifetime."""
    known = Held(
        endpoint_url="opc.tcp://h:4840",
        ticket=cast(Any, None),
        monitoring=cast(Any, None),
        limits=cast(Any, None),
        server_started=None,
        text_of=lambda _variant: None,
    )
    for place, lifetime_s in enumerate(lifetimes_s):
        flow = flow_of(place)
        flow.lifetime_s = lifetime_s
        known.flows.append(flow)
    known.lose(100.0)
    for name, value in changes.items():
        setattr(known, name, value)
    return known


@pytest.mark.parametrize(
    ("known", "now_s", "rung"),
    [
        (None, 100.0, Rung.CREATE),
        (held(), 100.0, Rung.CREATE),
        (held(60.0), 101.0, Rung.REACTIVATE),
        (held(60.0), 161.0, Rung.CREATE),
        (held(10.0, 60.0), 159.0, Rung.REACTIVATE),
        (held(60.0, session_gone=True), 101.0, Rung.TRANSFER),
        (held(60.0, session_gone=True), 161.0, Rung.CREATE),
    ],
)
def test_the_first_rung_follows_from_what_can_still_be_alive(
    known: Held | None, now_s: float, rung: Rung
) -> None:
    assert first_rung(known, now_s) == rung


def test_subscriptions_that_have_all_ended_leave_nothing_to_go_on_with() -> None:
    known = held(60.0, 60.0)
    known.flows[0].ended = True
    assert first_rung(known, 101.0) == Rung.REACTIVATE
    known.flows[1].ended = True
    assert first_rung(known, 101.0) == Rung.CREATE


def test_a_server_that_closes_instead_of_refusing_is_believed_the_second_time() -> None:
    known = held(60.0)
    closed = ConnectionRefused("the server closed the connection")
    assert not _refused(closed, known)
    assert _refused(closed, known)


def test_a_server_that_cannot_be_reached_says_nothing_of_the_session() -> None:
    known = held(60.0)
    unreachable = ConnectionRefused("cannot connect")
    unreachable.__cause__ = ConnectionRefusedError()
    assert not any(_refused(unreachable, known) for _ in range(10))
