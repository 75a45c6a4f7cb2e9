"""The committed gRPC code is what the .proto files say, and the .proto files keep our rules."""

import re
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor, ServiceDescriptor

from scada.v1 import gaps_pb2, quarantine_pb2, readings_pb2

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTOR: FileDescriptor = readings_pb2.DESCRIPTOR
FILES: tuple[FileDescriptor, ...] = (DESCRIPTOR, gaps_pb2.DESCRIPTOR, quarantine_pb2.DESCRIPTOR)


def test_every_proto_file_is_held_to_the_rules() -> None:
    assert {Path(file.name).name for file in FILES} == {
        proto.name for proto in (ROOT / "protos" / "scada" / "v1").glob("*.proto")
    }


def test_the_committed_code_is_what_protoc_makes_of_the_proto_files() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "protos" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_message_names_a_tenant() -> None:
    messages: list[Descriptor] = [
        message for file in FILES for message in file.message_types_by_name.values()
    ]
    names = {field.name for message in messages for field in message.fields}
    assert names, "no messages found"
    assert not [name for name in names if "tenant" in name]


def test_enums_begin_with_an_unspecified_zero() -> None:
    enums: list[EnumDescriptor] = [enum for file in FILES for enum in file.enum_types_by_name.values()]
    for enum in enums:
        prefix = re.sub("(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


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
    services: list[ServiceDescriptor] = [
        service for file in FILES for service in file.services_by_name.values()
    ]
    methods = [method for service in services for method in service.methods]
    assert [(m.input_type.name, m.output_type.name) for m in methods] == [
        (f"{m.name}Request", f"{m.name}Response") for m in methods
    ]
