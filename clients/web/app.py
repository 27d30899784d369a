"""The web application: the page's files, and three questions that the page asks.

    POST /api/digits[?many=1]   the body is a picture file: what the digits in it are
    GET  /api/model             the served model's card
    GET  /api/load              what the digit server has done so far

An answer that is none is `{"error": "why"}` under the status of `clients.web.errors`.
"""

import asyncio
import base64
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clients.aio import AsyncDigitClient
from clients.answers import Classification
from clients.lines import lines
from clients.web.errors import HANDLERS
from clients.web.load import LoadReader
from clients.web.security import SameOrigin
from imaging import Digit

# A photograph of a phone at its best quality has about ten.
MAX_PICTURE_BYTES = 16 << 20

# Pictures that are being received, read and classified; with their size this bounds the memory.
MAX_PICTURES = 8

# For a picture to arrive.
UPLOAD_TIMEOUT_S = 30.0

_STATIC = Path(__file__).parent / "static"


class Read(Protocol):
    """`imaging.pool.Pool.read`."""

    async def __call__(self, pictures: Sequence[bytes], *, many: bool) -> list[tuple[Digit, ...]]:
        """The digits in each picture."""
        ...


def build_app(*, client: AsyncDigitClient, load: LoadReader, read: Read, name: str) -> Starlette:
    """The application.

    Args:
        client: Of the digit server.
        load: Of the same server.
        read: Turns pictures into pixels.
        name: The host name that the page is served under, besides addresses and `localhost`.
    """
    api = _Api(client, load, read)
    questions = [
        Route("/digits", api.digits, methods=["POST"]),
        Route("/model", api.model),
        Route("/load", api.load),
    ]
    routes = [Mount("/api", routes=questions), Mount("/", StaticFiles(directory=_STATIC, html=True))]
    return Starlette(routes=routes, middleware=[Middleware(SameOrigin, name=name)], exception_handlers=HANDLERS)


class _Api:
    def __init__(self, client: AsyncDigitClient, load: LoadReader, read: Read) -> None:
        self._client = client
        self._load = load
        self._read = read
        self._places = asyncio.Semaphore(MAX_PICTURES)

    async def digits(self, request: Request) -> JSONResponse:
        if self._places.locked():
            raise HTTPException(429, f"{MAX_PICTURES} pictures are being read already")
        async with self._places:
            picture = await _body(request)
            began = time.perf_counter()
            [digits] = await self._read([picture], many="many" in request.query_params)
            picture_ms = 1e3 * (time.perf_counter() - began)
            answer = await self._client.classify(np.stack([each.pixels for each in digits])) if digits else None
        return JSONResponse({"picture_ms": picture_ms, **_document(digits, answer)})

    async def model(self, request: Request) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(await self._client.get_model()))

    async def load(self, request: Request) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(await self._load.read()))


async def _body(request: Request) -> bytes:
    """The body, not a byte more of it in memory than a picture may have."""
    too_large = HTTPException(413, f"the file is too large; at most {MAX_PICTURE_BYTES >> 20} MiB are read")
    if int(request.headers.get("content-length", 0)) > MAX_PICTURE_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            async for chunk in request.stream():
                if len(body) + len(chunk) > MAX_PICTURE_BYTES:
                    raise too_large
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"the picture did not arrive within {UPLOAD_TIMEOUT_S:.0f} s") from None
    return bytes(body)


def _document(digits: tuple[Digit, ...], answer: Classification | None) -> dict[str, Any]:
    if answer is None:
        return {"digits": []}
    return {
        "digits": [
            {
                "line": line,
                "digit": prediction.digit,
                "probabilities": prediction.probabilities.tolist(),
                "pixels": base64.b64encode(digit.pixels.tobytes()).decode(),
                "box": dataclasses.asdict(digit.box),
                "warnings": [*digit.warnings, *prediction.warnings],
            }
            for line, digit, prediction in zip(
                lines(digit.box for digit in digits), digits, answer.predictions, strict=True
            )
        ],
        "model": answer.model,
        "version": answer.version,
        "queue_ms": 1e3 * answer.queue_s,
        "compute_ms": 1e3 * answer.compute_s,
        "batch_size": answer.batch_size,
    }
