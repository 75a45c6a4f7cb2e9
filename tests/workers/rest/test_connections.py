"""Connections and tags over REST: real process, real databases; what is written is what the catalog then knows."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from engine import catalog, database
from tests.engine.catalog_entries import CERTIFICATE, PRIVATE_KEY
from tests.servers.databases import run
from tests.workers.rest.conftest import SECRETS_KEY, Plant
from workers.rest.schemas import ConnectionView, TagView

PASSWORD = "hunter2-and-more"


def connection_body(plant: Plant, **changes: Any) -> dict[str, Any]:
    return {
        "wellId": str(plant.well_id),
        "name": "Permian RTU",
        "endpointUrl": "opc.tcp://10.0.0.5:4840",
    } | changes


def added(plant: Plant, **changes: Any) -> dict[str, Any]:
    answer = plant.rest.post("/scada/connections", connection_body(plant, **changes))
    assert answer.status == 201, answer.body
    created: dict[str, Any] = answer.json
    return created


def test_a_connection_that_is_created_is_listed_and_runs_with_its_password(plant: Plant) -> None:
    created = added(
        plant, username="reader", password=PASSWORD, pollIntervalSeconds=5, description="north pad"
    )
    assert (created["name"], created["wellId"]) == ("Permian RTU", str(plant.well_id))
    assert (created["securityMode"], created["pollIntervalSeconds"], created["tagCount"]) == ("None", 5, 0)
    assert plant.rest.get("/scada/connections").json == [created]
    ConnectionView.model_validate(created)

    async def loaded() -> list[catalog.Connection]:
        async with await database.connect(plant.databases.tenant_dsn, application="test") as tenant:
            return await catalog.load_connections(tenant, plant.tenant_id, secrets_key=SECRETS_KEY)

    (connection,) = run(loaded())
    assert (str(connection.id), connection.username, connection.password) == (
        created["id"],
        "reader",
        PASSWORD,
    )


SETTINGS = {
    "readMode": "poll",
    "publishingIntervalMs": 250.0,
    "samplingIntervalMs": -1.0,
    "queueSize": 7,
    "discardOldest": False,
    "deadbandType": "Percent",
    "deadbandValue": 0.5,
    "dataChangeTrigger": "Status",
    "timestampsToReturn": "Both",
}


def test_what_the_earlier_service_did_not_know_may_be_left_out_and_is_kept(plant: Plant) -> None:
    bare = added(plant, name="A")
    assert (bare["securityMode"], bare["securityPolicy"], bare["failoverUrls"]) == ("None", "None", [])
    assert {bare[name] for name in SETTINGS} == {None}
    assert (bare["active"], bare["hasUserCertificate"]) == (None, False)
    more = {
        "failoverUrls": ["opc.tcp://b:4840"],
        "securityMode": "Auto",
        "securityPolicy": "Basic256",
        "allowDeprecatedPolicies": True,
        "allowPlainPassword": True,
    }
    full = added(plant, name="B", userCertificate=CERTIFICATE, userPrivateKey=PRIVATE_KEY, **more, **SETTINGS)
    assert {name: full[name] for name in more | SETTINGS} == more | SETTINGS
    assert full["hasUserCertificate"]
    assert "PRIVATE KEY" not in str(full)
    ConnectionView.model_validate(full)
    body = {"tags": [{"tagName": "P", "opcNodeId": "/Objects/2:Plant/2:P[3]", "dataType": "ENUM"} | SETTINGS]}
    (tag,) = plant.rest.post(f"/scada/connections/{bare['id']}/tags", body).json
    assert {name: tag[name] for name in SETTINGS} == SETTINGS
    TagView.model_validate(tag)


def test_what_a_connection_uses_now_is_shown(plant: Plant) -> None:
    created = added(plant)
    active = catalog.ActiveConnection(
        endpoint_url="opc.tcp://b:4840",
        security_mode="Sign",
        security_policy="Basic256Sha256",
        monitored=3,
        revised_publishing_interval_ms=1_000.0,
    )

    async def record() -> None:
        async with await database.connect(plant.databases.tenant_dsn, application="test") as tenant:
            await catalog.record_connection(
                tenant, UUID(created["id"]), connected=True, error=None, active=active
            )

    run(record())
    (shown,) = plant.rest.get("/scada/connections").json
    assert shown["active"] == {
        "endpointUrl": "opc.tcp://b:4840",
        "securityMode": "Sign",
        "securityPolicy": "Basic256Sha256",
        "monitored": 3,
        "revisedPublishingIntervalMs": 1_000.0,
        "revisedLifetimeMs": None,
    }
    ConnectionView.model_validate(shown)


def test_a_password_is_stored_sealed_never_returned_and_never_logged(plant: Plant) -> None:
    answers = [
        plant.rest.post("/scada/connections", connection_body(plant, username="reader", password=PASSWORD)),
        plant.rest.post("/scada/connections", connection_body(plant, password=PASSWORD)),
        plant.rest.post("/scada/connections", connection_body(plant, username=3, password=[PASSWORD])),
        plant.rest.post("/scada/connections", connection_body(plant, username="reader", passwd=PASSWORD)),
        plant.rest.post("/scada/connections", b'{"password": "' + PASSWORD.encode() + b'", '),
        plant.rest.get("/scada/connections"),
    ]
    assert [answer.status for answer in answers] == [201, 400, 400, 400, 400, 200]
    assert not [answer.body for answer in answers if PASSWORD.encode() in answer.body]
    assert PASSWORD not in plant.rest.log.read_text()
    ((stored,),) = plant.rows("select password from scada_connections")
    assert stored
    assert PASSWORD not in stored


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("wellId", {"wellId": "no-uuid"}),
        ("name", {"name": ""}),
        ("name", {"name": 7}),
        ("endpointUrl", {"endpointUrl": "http://10.0.0.5"}),
        ("securityPolicy", {"securityMode": "Sign"}),
        ("securityMode", {"securityMode": "sign"}),
        ("pollIntervalSeconds", {"pollIntervalSeconds": 0}),
        ("pollIntervalSeconds", {"pollIntervalSeconds": 10**30}),
        ("password", {"password": "without a user name"}),
        ("failoverUrls[1]", {"failoverUrls": ["opc.tcp://b:4840", "b"]}),
        ("failoverUrls", {"failoverUrls": [f"opc.tcp://b:{port}" for port in range(1, 10)]}),
        ("securityPolicy", {"securityMode": "Sign", "securityPolicy": "Basic256"}),
        ("queueSize", {"queueSize": 0}),
        ("deadbandValue", {"deadbandType": "Percent"}),
        ("deadbandValue", {"deadbandValue": 1}),
        ("userCertificate", {"userCertificate": CERTIFICATE}),
        ("userPrivateKey", {"userPrivateKey": "no key"}),
        ("tenantId", {"tenantId": str(uuid4())}),
    ],
)
def test_a_field_that_does_not_fit_is_named(plant: Plant, field: str, changes: dict[str, Any]) -> None:
    status, named, message = plant.rest.post("/scada/connections", connection_body(plant, **changes)).problem
    assert (status, named) == (400, field)
    assert "_" not in message
    assert plant.rest.get("/scada/connections").json == []


def test_every_field_that_does_not_fit_is_told_at_once(plant: Plant) -> None:
    answer = plant.rest.post("/scada/connections", {"wellId": "x", "nme": "y"})
    assert answer.status == 400
    assert {problem["field"] for problem in answer.json["error"]["problems"]} == {
        "wellId", "name", "endpointUrl", "nme",
    }  # fmt: skip


def test_a_well_or_a_connection_that_is_not_there_is_404(plant: Plant) -> None:
    answer = plant.rest.post("/scada/connections", connection_body(plant, wellId=str(uuid4())))
    assert answer.problem[:2] == (404, "wellId")
    tags = {"tags": [{"tagName": "A", "opcNodeId": "i=1"}]}
    assert plant.rest.post(f"/scada/connections/{uuid4()}/tags", tags).problem[:2] == (404, "id")
    assert plant.rest.post("/scada/connections/7/tags", tags).problem[:2] == (400, "id")


def test_tags_that_are_added_are_counted_and_known_to_the_catalog(plant: Plant) -> None:
    created = added(plant)
    body = {
        "tags": [
            {
                "tagName": "GAS_FLOW_RATE",
                "opcNodeId": "ns=2;s=Permian.GAS_FLOW_RATE",
                "dataType": "INT",
                "unit": "MCF/D",
                "scalingFactor": 0.1,
                "offset": -1.5,
            },
            {"tagName": "CASING_PRESSURE", "opcNodeId": "ns=2;s=Permian.CASING_PRESSURE"},
        ]
    }
    answer = plant.rest.post(f"/scada/connections/{created['id']}/tags", body)
    assert answer.status == 201, answer.body
    gas, casing = answer.json
    assert (gas["tagName"], gas["scalingFactor"], gas["offset"]) == ("GAS_FLOW_RATE", 0.1, -1.5)
    assert (casing["dataType"], casing["unit"], casing["wellId"]) == ("DOUBLE", None, str(plant.well_id))
    TagView.model_validate(gas)
    assert plant.rest.get("/scada/connections").json[0]["tagCount"] == 2
    assert plant.rows("select tag_id from tag_mappings order by tag_id") == [
        (gas["tagId"],),
        (casing["tagId"],),
    ]


def test_one_tag_that_does_not_fit_keeps_all_of_them_out_and_every_one_is_named(plant: Plant) -> None:
    created = added(plant)
    body = {
        "tags": [
            {"tagName": "A", "opcNodeId": "i=1"},
            {"tagName": "B", "opcNodeId": "nonsense"},
            {"tagName": "C", "opcNodeId": "i=1", "scalingFactor": 0},
        ]
    }
    answer = plant.rest.post(f"/scada/connections/{created['id']}/tags", body)
    assert answer.problem[:2] == (400, "tags[1].opcNodeId")
    assert [problem["field"] for problem in answer.json["error"]["problems"]] == [
        "tags[1].opcNodeId", "tags[2].scalingFactor", "tags[2].opcNodeId",
    ]  # fmt: skip
    assert plant.rows("select from tag_mappings") == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_scaling_that_is_no_number_is_refused(plant: Plant, number: str) -> None:
    created = added(plant)
    body = b'{"tags": [{"tagName": "A", "opcNodeId": "i=1", "scalingFactor": ' + number.encode() + b"}]}"
    answer = plant.rest.post(f"/scada/connections/{created['id']}/tags", body)
    assert answer.problem[:2] == (400, "tags[0].scalingFactor")


def test_pages_lead_to_every_connection_once(plant: Plant) -> None:
    names = [added(plant, name=f"PLC {number}")["name"] for number in range(5)]
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = plant.rest.get("/scada/connections", limit=2, **cursor)
        seen += [each["name"] for each in page.json]
        if page.headers["X-Next-Cursor"] is None:
            break
        assert len(page.json) == 2
        cursor = {"cursor": page.headers["X-Next-Cursor"]}
    assert seen == names
    assert plant.rest.get("/scada/connections", cursor=uuid4()).problem[:2] == (404, "cursor")
    assert plant.rest.get("/scada/connections", limit=0).problem[:2] == (400, "limit")
