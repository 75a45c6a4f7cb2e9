"""asyncua's server as a program: `python -m tests.servers.asyncua_program PORT JSON`. asyncua_server.py starts it.

Owns what it serves: folder Tags with Double counters tag.0 .. tag.N-1 of namespace 1 that step together, the fixed
values, and folder Changing with an enumeration defined by EnumDefinition, a structure, arrays, a variable with a range
and a namespace that moves. Lines on standard input: hold, release, set NAME NUMBER, service-level NUMBER.

It samples nothing, knows no limits, no percent deadband and no index range, and keeps every step in a queue.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from datetime import UTC
from pathlib import Path
from typing import Any, cast

from asyncua import ua
from asyncua.common.node import Node
from asyncua.common.structures104 import new_struct, new_struct_field
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history import HistoryDict
from asyncua.server.server import Server

from tests.servers.fixed_values import FIXED_VALUES, NULL_NODE
from tests.servers.opcua_server import ServedVariable

MOVING_NAMESPACE = "urn:scada-engine:moving"
_SECURE = (
    ua.SecurityPolicyType.Basic256Sha256_Sign,
    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ua.SecurityPolicyType.Aes128Sha256RsaOaep_Sign,
    ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_Sign,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
)
_DEPRECATED = (
    ua.SecurityPolicyType.Basic128Rsa15_Sign,
    ua.SecurityPolicyType.Basic128Rsa15_SignAndEncrypt,
    ua.SecurityPolicyType.Basic256_Sign,
    ua.SecurityPolicyType.Basic256_SignAndEncrypt,
)
_STOP_DEADLINE_S = 5.0


class _Gatekeeper:
    """Admits the users of the options; asyncua asks with a channel's certificate for anonymous users, too."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._users = dict(options["users"])

    def get_user(
        self,
        _server: object,
        username: str | None = None,
        password: str | None = None,
        **_certificate: object,
    ) -> User | None:
        if username is not None and self._users.get(username) != password:
            return None
        return User(UserRole.User)


class _Served:
    """The address space, and what steps and lines on standard input do to it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._counters: list[Node] = []
        self._settable: dict[str, tuple[Node, ua.VariantType]] = {}
        self._step = 0
        self.holding = False

    async def add(self, options: dict[str, Any]) -> None:
        objects = self._server.nodes.objects
        tags = await objects.add_folder(_id("Tags"), _name("Tags"))
        for number in range(options["variables"]):
            self._counters.append(await _add(tags, f"tag.{number}", ua.Variant(0.0)))
        types = await objects.add_folder(_id("Types"), _name("Types"))
        for variable in FIXED_VALUES:
            await _add_fixed(types, variable)
        null = ua.NodeId.from_string(NULL_NODE)
        await types.add_variable(
            null, _name("type.null"), ua.Variant(), datatype=ua.NodeId.from_string("i=24")
        )
        await self._add_changing(await objects.add_folder(_id("Changing"), _name("Changing")), options)
        if options["history_page"]:
            self._server.iserver.history_manager.set_storage(HistoryDict(options["history_page"]))
            await self._server.historize_node_data_change(self._counters)

    async def _add_changing(self, folder: Node, options: dict[str, Any]) -> None:
        await self._add_enumeration(folder, "State", {0: "Stopped", 1: "Running", 2: "Fault"}, 1)
        await self._add_enumeration(folder, "Mode", {10: "Manual", 20: "Automatic"}, 20)
        await self._add_point(folder)
        for name in ("analog", "plain"):
            node = await _add(folder, name, ua.Variant(100.0))
            self._settable[name] = (node, ua.VariantType.Double)
        analog = self._settable["analog"][0]
        await analog.add_property(_id("analog.EURange"), ua.QualifiedName("EURange", 0), ua.Range(0.0, 200.0))
        unit = ua.EUInformation(
            "http://www.opcfoundation.org/UA/units/un/cefact",
            4_408_652,
            ua.LocalizedText("°C", "en"),
            ua.LocalizedText("degree Celsius", "en"),
        )
        await analog.add_property(_id("analog.Unit"), ua.QualifiedName("EngineeringUnits", 0), unit)
        self._array = await _add(folder, "array.counter", ua.Variant([0.0] * 3))
        self._matrix = await _add(folder, "matrix.counter", ua.Variant([[0.0] * 3] * 2))
        if options["namespace_before"]:
            await self._server.register_namespace("urn:scada-engine:in-between")
        index = await self._server.register_namespace(MOVING_NAMESPACE)
        moved = ua.NodeId(ua.String("moved"), ua.Int16(index))
        self._moved = await folder.add_variable(moved, ua.QualifiedName("moved", ua.UInt16(index)), 0.0)

    async def _add_enumeration(self, folder: Node, name: str, texts: dict[int, str], value: int) -> None:
        fields = [
            ua.EnumField(ua.Int64(number), ua.LocalizedText(text), ua.LocalizedText(text), text)
            for number, text in texts.items()
        ]
        data_type = await self._server.nodes.enum_data_type.add_data_type(1, name)
        await data_type.write_data_type_definition(ua.EnumDefinition(fields))
        start = ua.Variant(value, ua.VariantType.Int32)
        node = await folder.add_variable(
            _id(f"enum.{name}"), _name(f"enum.{name}"), start, datatype=data_type.nodeid
        )
        self._settable[f"enum.{name}"] = (node, ua.VariantType.Int32)

    async def _add_point(self, folder: Node) -> None:
        data_type, _ = await new_struct(
            self._server,
            1,
            "Point",
            [
                new_struct_field("x", ua.VariantType.Double),
                new_struct_field("y", ua.VariantType.Double),
                new_struct_field("name", ua.VariantType.String),
            ],
        )
        types = await self._server.load_data_type_definitions()
        point = types["Point"](x=1.5, y=-2.5, name="valve")
        await folder.add_variable(
            _id("structure.Point"),
            _name("structure.Point"),
            ua.Variant(point, ua.VariantType.ExtensionObject),
            datatype=data_type.nodeid,
        )

    async def step(self) -> None:
        if self.holding:
            return
        self._step += 1
        step = float(self._step)
        for node in self._counters:
            await _write(node, ua.Variant(step))
        await _write(self._array, ua.Variant([step, step + 0.5, -step]))
        rows = [[step, step + 1, step + 2], [-step, -step - 1, -step - 2]]
        await _write(self._matrix, ua.Variant(rows))
        await _write(self._moved, ua.Variant(step))

    async def obey(self, line: str) -> None:
        match line.split():
            case ["hold"]:
                self.holding = True
            case ["release"]:
                self.holding = False
            case ["set", name, number] if name in self._settable:
                node, kind = self._settable[name]
                value = int(float(number)) if kind is ua.VariantType.Int32 else float(number)
                await _write(node, ua.Variant(value, kind))
            case ["service-level", number]:
                await self.set_service_level(int(number))

    async def set_service_level(self, level: int) -> None:
        node = self._server.get_node(ua.NodeId.from_string("i=2267"))
        await _write(node, ua.Variant(level, ua.VariantType.Byte))


def _id(name: str) -> ua.NodeId:
    return ua.NodeId(ua.String(name), ua.Int16(1))


def _name(name: str) -> ua.QualifiedName:
    return ua.QualifiedName(name, ua.UInt16(1))


async def _add(folder: Node, name: str, value: ua.Variant) -> Node:
    node = await folder.add_variable(_id(name), _name(name), value)
    await _write(node, value)
    return node


async def _add_fixed(folder: Node, variable: ServedVariable) -> None:
    node_id = ua.NodeId.from_string(variable.node_id)
    kind = ua.VariantType[variable.data_type]
    value = ua.Variant(_as_ua(variable.value, kind), kind)
    node = await folder.add_variable(node_id, _name(str(node_id.Identifier)), value)
    await _write(node, value, variable.status)


def _as_ua(value: object, kind: ua.VariantType) -> object:
    match kind:
        case ua.VariantType.StatusCode:
            return ua.StatusCode(cast(ua.UInt32, value))
        case _:
            return value


async def _write(node: Node, value: ua.Variant, status: int = 0) -> None:
    now = ua.DateTime.now(UTC)
    await node.write_value(ua.DataValue(value, ua.StatusCode(ua.UInt32(status)), now, now))


async def _serve(port: int, options: dict[str, Any]) -> None:
    server = Server(user_manager=cast(Any, _Gatekeeper(options)))
    gc.disable()
    await server.init()
    gc.enable()
    gc.freeze()
    if options["application_uri"]:
        await server.set_application_uri(options["application_uri"])
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    await _secure(server, options)
    served = _Served(server)
    await served.add(options)
    await server.start()
    await served.set_service_level(options["service_level"])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print("READY", flush=True)
    async with asyncio.TaskGroup() as group:
        work = [
            group.create_task(_count(served, options["interval_ms"] / 1_000)),
            group.create_task(_read_lines(served, stop)),
        ]
        await stop.wait()
        for task in work:
            task.cancel()
    async with asyncio.timeout(_STOP_DEADLINE_S):
        await server.stop()


async def _secure(server: Server, options: dict[str, Any]) -> None:
    policies: list[ua.SecurityPolicyType] = []
    if not options["only_secure"]:
        policies.append(ua.SecurityPolicyType.NoSecurity)
    if options["certificate"]:
        await server.load_certificate(Path(options["certificate"]))
        await server.load_private_key(Path(options["private_key"]))
        policies += _SECURE
        policies += _DEPRECATED if options["deprecated"] else ()
    server.set_security_policy(policies)
    tokens: list[type] = [ua.AnonymousIdentityToken] if options["anonymous"] else []
    server.set_identity_tokens([*tokens, ua.UserNameIdentityToken, ua.X509IdentityToken])


async def _count(served: _Served, interval_s: float) -> None:
    """Step until cancelled; a step that is late is made at once."""
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        due += interval_s
        await asyncio.sleep(max(due - clock(), 0))
        await served.step()


async def _read_lines(served: _Served, stop: asyncio.Event) -> None:
    """Obey lines until standard input closes, which ends the program."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        await served.obey(line.decode())
    stop.set()


def main() -> int:
    """Serve until SIGTERM, or until standard input closes."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    port, options = int(sys.argv[1]), json.loads(sys.argv[2])
    try:
        asyncio.run(_serve(port, options))
    except OSError as exc:
        print(f"port {port}: {exc.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
