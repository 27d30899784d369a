"""The generated code: it is that of the protos, it speaks the stock client's language, and it can live beside it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from protos.inference import inference_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_make_proto_changes_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*_pb2*", "__pycache__"))
    words = ["make", "--old-file=.venv/ready", f"BIN={Path(sys.executable).parent}", "proto"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {path.relative_to(ROOT): path.read_text() for path in (ROOT / "protos").rglob("*_pb2*.py*")}
    assert generated.keys() == committed.keys()
    assert len(generated) == 6
    for path, text in generated.items():
        assert text == committed[path], f"{path} is not what the protos say: run `make proto`"


# The names of the Open Inference Protocol, and in the other client's words.

OURS = inference_pb2.DESCRIPTOR
STOCK = {
    name: message
    for module in (service_pb2, model_config_pb2)
    for name, message in module.DESCRIPTOR.message_types_by_name.items()
}
STOCK_ENUMS = model_config_pb2.DESCRIPTOR.enum_types_by_name
# One of ours for six of theirs.
ABBREVIATED = ("SharedMemoryRequest", "SharedMemoryResponse")


def fields(message: Descriptor) -> dict[str, tuple[Any, ...]]:
    return {
        field.name: (field.number, field.type, field.is_repeated, field.message_type and field.message_type.full_name)
        for field in message.fields
    }


def values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def compare(ours: Descriptor, stock: Descriptor) -> None:
    assert ours.full_name == stock.full_name
    assert fields(ours).items() <= fields(stock).items(), ours.full_name
    for name, enum in ours.enum_types_by_name.items():
        assert values(enum).items() <= values(stock.enum_types_by_name[name]).items()
    for name, nested in ours.nested_types_by_name.items():
        compare(nested, stock.nested_types_by_name[name])


@pytest.mark.parametrize("name", [name for name in OURS.message_types_by_name if name not in ABBREVIATED])
def test_fields_have_the_stock_clients_names_numbers_and_types(name: str) -> None:
    compare(OURS.message_types_by_name[name], STOCK[name])


def test_values_have_the_stock_clients_numbers() -> None:
    assert values(OURS.enum_types_by_name["DataType"]).items() <= values(STOCK_ENUMS["DataType"]).items()


def test_methods_have_the_stock_clients_names_and_streams() -> None:
    [service] = OURS.services_by_name.values()
    [stock] = service_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == stock.full_name
    for name, method in service.methods_by_name.items():
        other = stock.methods_by_name[name]
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)
    assert set(stock.methods_by_name) - set(service.methods_by_name) == {"TraceSetting", "LogSettings"}


def test_the_fields_of_shared_memory_are_those_of_all_six() -> None:
    for kind in ("System", "Cuda"):
        for verb in ("Status", "Register", "Unregister"):
            stock = STOCK[f"{kind}SharedMemory{verb}Request"]
            assert fields(OURS.message_types_by_name["SharedMemoryRequest"]).items() <= fields(stock).items()


@pytest.mark.parametrize("order", ["tritonclient.grpc, serve.app", "serve.app, tritonclient.grpc"])
def test_a_program_can_have_the_server_and_the_stock_client(order: str) -> None:
    """Names are registered once in protobuf's default pool, and these two have the same."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {order}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
