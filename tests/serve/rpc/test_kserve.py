"""KServe's client, unchanged. Its package bars protobuf 7: `DIGITS_KSERVE_PYTHON` names an interpreter that has it."""

import asyncio
import json
import os

import numpy as np
import pytest

from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Serving

PYTHON = os.environ.get("DIGITS_KSERVE_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="DIGITS_KSERVE_PYTHON names no interpreter that has kserve")

PROGRAM = """
import asyncio, json, sys
import numpy as np
from kserve import InferInput, InferRequest, InferenceGRPCClient

async def main(address, pixels):
    async with InferenceGRPCClient(url=address, timeout=30) as client:
        found = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "models": [await client.is_model_ready(name) for name in ("compact", "other")],
        }
        for name, binary in (("raw", True), ("typed", False)):
            tensor = InferInput("pixels", list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels, binary_data=binary)
            request = InferRequest(model_name="compact", infer_inputs=[tensor], request_id=name)
            response = await client.infer(request)
            found[response.id] = response.outputs[0].as_numpy().tolist()
        print(json.dumps(found))

asyncio.run(main(sys.argv[1], np.array(json.loads(sys.argv[2]), np.uint8)))
"""


async def test_kserves_client_sends_bytes_or_elements(serving: Serving) -> None:
    async with serving(FakeEngine()) as server:
        pixels = json.dumps(images(3).tolist())
        process = await asyncio.create_subprocess_exec(
            str(PYTHON), "-c", PROGRAM, server.address, pixels, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(output)
    assert (found["live"], found["ready"], found["models"]) == (True, True, [True, False])
    for name in ("raw", "typed"):
        np.testing.assert_array_equal(np.array(found[name], np.float32), answer_for(images(3)))
