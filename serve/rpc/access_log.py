"""Requests in the log, a share of them."""

import logging
import random
from collections.abc import Callable
from typing import Any

from serve.rpc.calls import Call

log = logging.getLogger(__name__)


class AccessLog:
    """A line for a share of the requests, and for every one that ends with INTERNAL.

    Args:
        share: 0 to 1.
        choose: Gives numbers from 0 to below 1.
    """

    def __init__(self, share: float, choose: Callable[[], float] = random.random) -> None:
        self._share = share
        self._choose = choose

    def observe_call(self, call: Call) -> None:
        """A request has ended: one of `serve.rpc.calls.Observers`."""
        if call.code != "INTERNAL" and (not self._share or self._choose() >= self._share):
            return
        fields: dict[str, Any] = {
            "method": call.method,
            "model": call.model.name if call.model else "",
            "code": call.code,
            "reason": call.reason,
            "images": call.images,
            "total_ms": round(call.seconds * 1000, 3),
            "peer": call.peer(),
            "request_id": call.request_id(),
        }
        if call.answer:
            fields["queue_ms"] = round(call.answer.queue_s * 1000, 3)
            fields["compute_ms"] = round(call.answer.compute_s * 1000, 3)
        log.info("call", extra=fields)
