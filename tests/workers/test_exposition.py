"""The text of /metrics against prometheus_client's own rendering of the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.exposition import choose_encoder

from engine.metrics import MetricsPage
from tests.workers.whole_exposition import Whole, filled_page
from workers.exposition import Exposition

ACCEPTS = (
    "",
    "text/plain;version=0.0.4",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "text/plain;version=1.0.0;escaping=dots",
    "text/plain;version=1.0.0;escaping=values",
    "application/openmetrics-text;version=0.0.1",
    "application/openmetrics-text;version=1.0.0",
    "application/openmetrics-text;version=2.0.0;escaping=allow-utf-8",
    "application/json, nonsense;;;q=x",
)


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    """A page with 300 tenants on two shards, some of them inactive, one out of balance."""
    page = filled_page(300)
    yield page
    page.close()


def numbers_of(text: str) -> list[tuple[str, float | str]]:
    """Lines in their order, numbers as numbers: 1 and 1.0 are the same to Prometheus."""
    lines = [line.rpartition(" ") for line in text.splitlines()]
    return [(name, number if name.startswith("#") else float(number)) for name, _, number in lines]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_text_says_what_prometheus_client_would_say(page: MetricsPage, accept: str) -> None:
    sample = page.snapshot()
    differences = {slug: tenant.accounting_difference for slug, tenant in sample.tenants.items()}
    encoder, content_type = choose_encoder(accept)
    exposition = Exposition()
    for _ in range(2):
        text, said_type = exposition.render(sample, differences, accept)
        assert said_type == content_type
        ours, theirs = (
            [(name, number) for name, number in numbers_of(rendered.decode()) if "resident" not in name]
            for rendered in (text, encoder(Whole(sample)))
        )
        assert ours == theirs


def test_the_text_follows_tenants_that_come_and_go(page: MetricsPage) -> None:
    exposition = Exposition()

    def up_lines() -> set[bytes]:
        sample = page.snapshot()
        text, _ = exposition.render(sample, dict.fromkeys(sample.tenants, 0), "")
        return {line for line in text.splitlines() if line.startswith(b"scada_database_up")}

    before = up_lines()
    page.shard(0).tenant("100%d")
    assert up_lines() - before == {b'scada_database_up{tenant="100%d"} 0'}
    page.shard(0).tenant("100%d").set_active(False)
    assert up_lines() == before


def test_a_page_without_tenants_is_still_valid_text() -> None:
    page = MetricsPage.create(1)
    text, _ = Exposition().render(page.snapshot(), {}, "")
    assert b"# TYPE scada_readings_ingested_total counter\n" in text
    assert b"scada_batch_size_count 0.0\n" in text
    page.close()


def test_every_metric_explains_itself(page: MetricsPage) -> None:
    text, _ = Exposition().render(page.snapshot(), dict.fromkeys(page.snapshot().tenants, 0), "")
    told = [line.split(" ", 3) for line in text.decode().splitlines() if line.startswith("# HELP")]
    assert len(told) == len({name for _, _, name, _ in told}) >= 24
    assert all(name.startswith("scada_") and len(help_text) > 20 for _, _, name, help_text in told)
