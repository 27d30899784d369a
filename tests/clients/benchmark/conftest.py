"""A server with a model that need not be trained first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.process import server_process
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def bundle() -> Path:
    return ROOT / "pretrained" / "compact"


@pytest.fixture(scope="session")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one server that all of these tests share."""
    with server_process(bundle, log=tmp_path_factory.mktemp("server") / "log") as server:
        yield server.address
