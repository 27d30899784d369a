"""What operators get to know of calls: metrics, traces and the access log, as far as they are configured."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import ModuleType
from typing import TypeAlias

from serve.config import ServeConfig
from serve.errors import StartupError
from serve.rpc.access_log import AccessLog
from serve.rpc.calls import Call

CountCall: TypeAlias = Callable[[str, str, str, str, str, float], None]
"""See `Metrics.count_call`."""


class Telemetry:
    """Lifecycle: construct, `start` before the first call, `stop` after the last.

    Args:
        config: The configuration.
        count_call: Counts calls for the metrics; None where there are none.

    Attributes:
        observers: See every request that ends.
    """

    def __init__(self, config: ServeConfig, count_call: CountCall | None) -> None:
        self._config = config
        self._started = AsyncExitStack()
        self.observers: list[Callable[[Call], None]] = [AccessLog(config.access_log).observe_call]
        if count_call is not None:
            self.observers.append(_counting(count_call))

    async def start(self) -> None:
        """Start what is configured.

        Raises:
            StartupError: It cannot be had.
        """
        if module := import_traces(self._config):
            traces = module.Traces(self._config.otel_endpoint)
            self._started.push_async_callback(traces.close)
            self.observers.append(traces.observe_call)

    async def stop(self) -> None:
        """Stop what was started; the last spans are sent."""
        await self._started.aclose()


def _counting(count_call: CountCall) -> Callable[[Call], None]:
    def observe_call(call: Call) -> None:
        name, version = (call.model.name, call.model.version) if call.model else ("", "")
        count_call(call.method, name, version, call.code, call.reason, call.seconds)

    return observe_call


def import_traces(config: ServeConfig) -> ModuleType | None:
    """What sends spans; None where no traces are configured.

    Raises:
        StartupError: It comes with an extra that is not installed.
    """
    if not config.otel_endpoint:
        return None
    try:
        from serve.rpc import traces
    except ModuleNotFoundError as error:
        raise StartupError(
            f"--otel-endpoint is given, but {error.name} is not installed; `pip install '.[otel]'` brings it"
        ) from error
    return traces
