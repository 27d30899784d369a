"""The one table from what went wrong to the HTTP status and the words that the page shows."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from clients.errors import DigitError, InvalidImages, ServerBusy, ServerUnavailable, TimedOut
from imaging import PictureError
from imaging.errors import WorkerLost

# Where the words are None those of the exception are shown, which say what to do.
_TABLE: dict[type[Exception], tuple[int, str | None]] = {
    PictureError: (400, None),
    WorkerLost: (500, None),
    InvalidImages: (400, None),
    ServerBusy: (429, "the digit server has more to do than it can and refused this picture"),
    ServerUnavailable: (503, "the digit server does not answer"),
    TimedOut: (504, "the digit server did not answer in time"),
    # A token that is missing, a model that is not there, a fault of its own: nothing that the page's user did.
    DigitError: (502, None),
}


def refusal(status: int, message: str) -> JSONResponse:
    """An answer that says why there is none."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": message}, status, headers)


async def _listed(request: Request, error: Exception) -> Response:
    status, words = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    return refusal(status, words or str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = refusal(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # which nobody reads: the browser has hung up


async def _fault(request: Request, error: Exception) -> Response:
    return refusal(500, "this page's server failed; its log has the reason")


HANDLERS = {
    DigitError: _listed,
    PictureError: _listed,
    WorkerLost: _listed,
    HTTPException: _http,
    ClientDisconnect: _gone,
    Exception: _fault,
}
