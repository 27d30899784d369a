"""A user's own program, checked against the package as it is installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio
from pathlib import Path

import numpy as np

from clients import AsyncDigitClient, Classification, DigitClient, DigitError, ModelInfo, ServerBusy, Tls

images = np.zeros((3, 28, 28), np.uint8)

with DigitClient(["10.0.0.1:8001"], tls=Tls(root=Path("root.crt")), token="token", coalesce=True) as client:
    client.wait_until_ready(timeout_s=10)
    answer: Classification = client.classify(images, top_k=3)
    best: float = answer.predictions[0].top[0].probability
    model: ModelInfo = client.get_model()
    for each in client.stream([images]):
        if isinstance(each, DigitError):
            name: str = each.request_id
        else:
            digit: int = each.predictions[0].digit


async def main() -> int:
    async with AsyncDigitClient("localhost:8001") as client:
        try:
            return len((await client.classify(images)).digits)
        except ServerBusy:
            return 0


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An interpreter that has `clients` and `protos` among its packages, beside those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in ("clients", "protos"):
        (packages / name).symlink_to(ROOT / name)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def check(installed: Path, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["-m", "mypy", "--strict", "--python-executable", installed, "--cache-dir", ROOT / ".mypy_cache" / "users"]
    return subprocess.run(
        [sys.executable, *map(str, words), "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_users_program_passes_the_strict_type_check(installed, tmp_path):
    done = check(installed, PROGRAM, tmp_path)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr


def test_a_users_mistake_is_found(installed, tmp_path):
    done = check(installed, PROGRAM.replace("digit: int", "digit: str"), tmp_path)
    assert "Incompatible types in assignment" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Found 1 error")
