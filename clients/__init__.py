"""Clients of a digit server: a library for Python, and command lines built on it.

    with DigitClient("127.0.0.1:8001") as client:
        print(client.classify(images).predictions[0].digit)

Needs grpcio, protobuf and numpy, and nothing of the server's.
"""

from clients.access import Tls
from clients.aio import AsyncDigitClient
from clients.answers import Candidate, Classification, ModelInfo, Prediction
from clients.client import DigitClient
from clients.errors import (
    AccessDenied,
    ClientClosed,
    DigitError,
    InvalidImages,
    ModelNotFound,
    ProtocolMismatch,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    TimedOut,
)

__all__ = [
    "AccessDenied",
    "AsyncDigitClient",
    "Candidate",
    "Classification",
    "ClientClosed",
    "DigitClient",
    "DigitError",
    "InvalidImages",
    "ModelInfo",
    "ModelNotFound",
    "Prediction",
    "ProtocolMismatch",
    "ServerBusy",
    "ServerError",
    "ServerUnavailable",
    "TimedOut",
    "Tls",
]
