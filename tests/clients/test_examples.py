"""The examples in other languages, run as they stand."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clients import DigitClient

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "clients" / "examples"

NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT", "ENOTCACHED")


def test_the_commands_for_grpcurl_are_understood(address, tmp_path):
    """By grpcurl where it is installed, else by a stand-in that reads the same flags and JSON."""
    path = os.environ["PATH"]
    if not shutil.which("grpcurl"):
        stand_in = tmp_path / "grpcurl"
        stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("grpcurl.py")} "$@"\n')
        stand_in.chmod(0o755)
        path = f"{tmp_path}:{path}"
    done = subprocess.run(
        [EXAMPLES / "grpcurl.sh", address],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    _, services, ready, model, one, stream = done.stdout.split("# ")
    assert "digits.v1.DigitRecognizer" in services
    assert '"status": "SERVING"' in ready
    assert '"name": "compact"' in model
    assert one.count('"probability":') == 2
    assert stream.count('"response":') == 2
    assert stream.count('"refusal":') == 1
    assert "pixels holds 3 bytes" in stream


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Path:
    """The folder of the Node client, with its packages, in a copy of the tree."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    root = tmp_path_factory.mktemp("node")
    proto = "protos/digits/v1/digits.proto"
    (root / proto).parent.mkdir(parents=True)
    shutil.copy(ROOT / proto, root / proto)
    folder = root / "clients" / "examples" / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if any(code in done.stderr for code in NO_NETWORK):
        pytest.skip(f"npm has no network: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return folder


def classify(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = ["node", "classify.js", *map(str, arguments)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("repeats", [1, 30], ids=["one request", "more images than a request may have"])
def test_the_node_client_gets_the_same_digits_at_once_and_streamed(node, address, images, repeats):
    images = np.concatenate([images] * repeats)
    with DigitClient(address) as client:
        digits = client.classify(images).digits
    (node / "images").write_bytes(struct.pack(">IIII", 2051, *images.shape) + np.ascontiguousarray(images).tobytes())
    done = classify(node, address, "images")
    assert (done.returncode, done.stderr) == (0, "")
    expected = " ".join(map(str, digits))
    first, second, third = done.stdout.splitlines()
    assert first == f"compact 1: {expected}"
    assert second.startswith(f"first image: {digits[0]} ")
    assert third == f"streamed: {expected}"


def test_the_node_client_says_what_is_wrong(node, free_address):
    done = classify(node, free_address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {free_address}: 14 UNAVAILABLE: ")


def test_the_lock_file_names_no_place_to_fetch_from():
    assert '"resolved"' not in (EXAMPLES / "node" / "package-lock.json").read_text()
