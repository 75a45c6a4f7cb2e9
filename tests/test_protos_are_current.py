"""The committed gRPC code is what the .proto files say, and the .proto files keep our rules."""

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FileDescriptor

from scada.v1 import readings_pb2

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTOR: FileDescriptor = readings_pb2.DESCRIPTOR


def test_the_committed_code_is_what_protoc_makes_of_the_proto_files() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "protos" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_message_names_a_tenant() -> None:
    messages: list[Descriptor] = list(DESCRIPTOR.message_types_by_name.values())
    names = {field.name for message in messages for field in message.fields}
    assert names, "no messages found"
    assert not [name for name in names if "tenant" in name]


def test_enums_begin_with_an_unspecified_zero() -> None:
    for name, enum in DESCRIPTOR.enum_types_by_name.items():
        assert enum.values_by_number[0].name == f"{name.upper()}_UNSPECIFIED"
        assert all(value.name.startswith(f"{name.upper()}_") for value in enum.values)


def test_numeric_columns_are_packed() -> None:
    columns = DESCRIPTOR.message_types_by_name["ReadingColumns"]
    assert [field.name for field in columns.fields if field.is_packed] == [
        "time_us",
        "tag_id",
        "status",
        "value",
        "null_row",
        "text_row",
    ]


def test_every_method_has_messages_of_its_own() -> None:
    methods = DESCRIPTOR.services_by_name["ReadingService"].methods
    assert [(m.input_type.name, m.output_type.name) for m in methods] == [
        (f"{m.name}Request", f"{m.name}Response") for m in methods
    ]
