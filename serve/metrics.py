"""What Prometheus is told.

Two interfaces are kept apart, so that front ends and batcher may live in processes of their own: `count_call` sees
every request that ends, `ModelMetrics` what a batcher does. Both count in plain numbers, which costs less than a
microsecond a time, and are called on the event loop only. A scrape reads them on a thread of its own and makes metrics
of them; what has a state, such as the queue, is read there and then.

Every label's values are ours, never a caller's: a model that is not served is "".
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from serve.batcher import Answer, BatchObserver
from serve.engines import CLASSES, Probabilities
from serve.local_model import LocalModel
from serve.models import Models

# From 50 µs up to 26 s, each the double of the one before.
_SECONDS = tuple(50e-6 * 2**power for power in range(20))
_IMAGES = tuple(2**power for power in range(13))

# What is known of versions that are served no longer is kept up to here: new ones may come for years.
_MOST_VERSIONS = 100

# Predictions wait until there are so many: numpy's calls cost the same for one image as for hundreds.
_PENDING_IMAGES = 256


class Histogram:
    """Counts values by the bucket that they fall into.

    Args:
        bounds: The buckets' upper bounds, in ascending order; what lies above all of them is counted as well.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Put the state into a scrape."""
        counts = self._counts.copy()
        below = np.cumsum(counts).tolist()
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, below, strict=True)), self._sum)


class Confidences:
    """How many answered images were which digit, and how sure of it the model was."""

    def __init__(self) -> None:
        # One reference, so that a scrape sees totals and what is to be added to them at the same moment.
        self._state: tuple[np.ndarray, list[Probabilities]] = np.zeros((2, CLASSES)), []
        self._images = 0

    def observe(self, probabilities: Probabilities) -> None:
        """Count the images of one answer."""
        self._state[1].append(probabilities)
        self._images += len(probabilities)
        if self._images >= _PENDING_IMAGES:
            self._state = self.totals(), []
            self._images = 0

    def totals(self) -> np.ndarray:
        """Of each digit the number of images and the sum of their probabilities for it: float64 [2, 10]."""
        totals, pending = self._state
        if not (answers := pending.copy()):
            return totals
        probabilities = np.concatenate(answers)
        digits = probabilities.argmax(axis=1)
        images = np.bincount(digits, minlength=CLASSES)
        confidence = np.bincount(digits, weights=probabilities.max(axis=1), minlength=CLASSES)
        return totals + np.stack([images, confidence])


class ModelMetrics(BatchObserver):
    """What the batcher of one version of one model did."""

    def __init__(self) -> None:
        self.images = 0
        self.failures = 0
        self.closed: dict[str, int] = {}
        self.execution_seconds = Histogram(_SECONDS)
        self.batch_images = Histogram(_IMAGES)
        self.queue_seconds = Histogram(_SECONDS)
        self.compute_seconds = Histogram(_SECONDS)
        self.confidences = Confidences()

    def executed(self, images: int, seconds: float, closed: str) -> None:
        """See `BatchObserver`."""
        self.images += images
        self.closed[closed] = self.closed.get(closed, 0) + 1
        self.batch_images.observe(images)
        self.execution_seconds.observe(seconds)

    def failed(self) -> None:
        """See `BatchObserver`."""
        self.failures += 1

    def answered(self, answer: Answer) -> None:
        """See `BatchObserver`."""
        self.queue_seconds.observe(answer.queue_s)
        self.compute_seconds.observe(answer.compute_s)
        self.confidences.observe(answer.probabilities)


class Metrics(Collector):
    """Everything about one server, for one registry.

    Args:
        models: What is served; read at every scrape.
    """

    def __init__(self, models: Models[LocalModel]) -> None:
        self._models = models
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._refusals: dict[tuple[str, str, str, str], int] = {}
        self._seconds: dict[tuple[str, str, str], Histogram] = {}
        self._pictures: dict[str, Histogram] = {}
        self._batchers: dict[tuple[str, str], ModelMetrics] = {}

    def registry(self) -> CollectorRegistry:
        """A new registry with these metrics and the process's own."""
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return registry

    def count_call(self, method: str, name: str, version: str, code: str, reason: str, seconds: float) -> None:
        """A request has ended, here or in a front end's process; see `serve.rpc.calls.Call`."""
        key = (method, name, version, code)
        self._requests[key] = self._requests.get(key, 0) + 1
        if code == "OK":
            series = (method, name, version)
            if series not in self._seconds:
                self._seconds[series] = Histogram(_SECONDS)
            self._seconds[series].observe(seconds)
        elif reason:
            refusal = (method, name, version, reason)
            self._refusals[refusal] = self._refusals.get(refusal, 0) + 1

    def count_picture(self, result: str, seconds: float) -> None:
        """A picture was read, or could not be, here or for a front end; see `imaging.pool.Observe`."""
        if result not in self._pictures:
            self._pictures[result] = Histogram(_SECONDS)
        self._pictures[result].observe(seconds)

    def of(self, name: str, version: str) -> ModelMetrics:
        """What the batcher of a model reports to; the same again when the model is opened again."""
        if (name, version) not in self._batchers and len(self._batchers) >= _MOST_VERSIONS:
            self._forget_oldest()
        return self._batchers.setdefault((name, version), ModelMetrics())

    def _forget_oldest(self) -> None:
        """Drop the series of the version that was opened first and is served no longer."""
        served = {(model.description.name, model.description.version) for model in self._models}
        gone = next((key for key in self._batchers if key not in served), None)
        if gone is None:
            return
        del self._batchers[gone]
        self._requests = {key: count for key, count in self._requests.items() if key[1:3] != gone}
        self._refusals = {key: count for key, count in self._refusals.items() if key[1:3] != gone}
        self._seconds = {key: seconds for key, seconds in self._seconds.items() if key[1:3] != gone}

    def describe(self) -> Iterable[Metric]:
        """Nothing: without this the registry would scrape in order to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The state as metrics; called on the thread of a scrape."""
        # A dict's items become a list in one step of the interpreter, whatever the event loop does meanwhile.
        calls = ("method", "model", "version")
        requests = CounterMetricFamily("digits_requests", "Requests that ended, by status.", labels=(*calls, "code"))
        refusals = CounterMetricFamily("digits_refusals", "Requests refused, by reason.", labels=(*calls, "reason"))
        for counter, counts in ((requests, self._requests), (refusals, self._refusals)):
            for labels, count in list(counts.items()):
                counter.add_metric(labels, count)
            yield counter
        seconds = HistogramMetricFamily(
            "digits_request_seconds", "From a request's arrival to its answer; answered requests only.", labels=calls
        )
        for key, histogram in list(self._seconds.items()):
            histogram.add_to(seconds, key)
        yield seconds
        pictures = HistogramMetricFamily(
            "digits_picture_seconds",
            "Reading an encoded picture, by what came of it: read, refused for its content, too_slow, or failed.",
            labels=("result",),
        )
        for result, histogram in list(self._pictures.items()):
            histogram.add_to(pictures, (result,))
        yield pictures
        yield from self._of_batchers()
        yield from self._of_models()

    def _of_batchers(self) -> Iterator[Metric]:
        labels = ("model", "version")
        batchers = list(self._batchers.items())
        histograms: list[tuple[str, str, Callable[[ModelMetrics], Histogram]]] = [
            ("digits_queue_seconds", "From a request's arrival to its engine call.", lambda of: of.queue_seconds),
            ("digits_compute_seconds", "From then until its last image was done.", lambda of: of.compute_seconds),
            ("digits_execution_seconds", "Engine calls.", lambda of: of.execution_seconds),
            ("digits_batch_images", "Images in one engine call.", lambda of: of.batch_images),
        ]
        for name, text, histogram in histograms:
            family = HistogramMetricFamily(name, text, labels=labels)
            for key, of in batchers:
                histogram(of).add_to(family, key)
            yield family
        images = CounterMetricFamily("digits_images", "Images that engine calls classified.", labels=labels)
        executions = CounterMetricFamily(
            "digits_executions",
            "Engine calls, by why no more images were added: the batch was full, nothing more was waiting (empty), or "
            "the allowed delay was over.",
            labels=(*labels, "closed"),
        )
        failures = CounterMetricFamily("digits_execution_failures", "Engine calls that failed.", labels=labels)
        confidence = SummaryMetricFamily(
            "digits_confidence", "Probability of the digit that was answered, by that digit.", labels=(*labels, "digit")
        )
        for key, of in batchers:
            images.add_metric(key, of.images)
            failures.add_metric(key, of.failures)
            for closed, count in list(of.closed.items()):
                executions.add_metric((*key, closed), count)
            for digit, (count, total) in enumerate(of.confidences.totals().T.tolist()):
                confidence.add_metric((*key, str(digit)), count, total)
        yield from (images, executions, failures, confidence)

    def _of_models(self) -> Iterator[Metric]:
        labels = ("model", "version")
        info = InfoMetricFamily("digits_model", "What is served, and by what.", labels=labels)
        queued = GaugeMetricFamily("digits_queue_images", "Images that wait for an engine.", labels=labels)
        accepted = GaugeMetricFamily("digits_requests_in_flight", "Requests accepted, not yet answered.", labels=labels)
        for model in self._models:
            description = model.description
            key = (description.name, description.version)
            names = ("engine", "device", "precision", "sha256")
            info.add_metric(key, {name: getattr(description, name) for name in names})
            queued.add_metric(key, model.batcher.queued_images)
            accepted.add_metric(key, model.batcher.in_flight)
        yield from (info, queued, accepted)
        loads = CounterMetricFamily(
            "digits_loads",
            "New or changed versions that were taken into service, or could not be.",
            labels=("model", "result"),
        )
        failing = GaugeMetricFamily(
            "digits_load_failing", "1 where not all that lies on the disk could be loaded.", labels=("model", "reason")
        )
        for name, each in list(self._models.loads.items()):
            loads.add_metric((name, "succeeded"), each.succeeded)
            loads.add_metric((name, "failed"), each.failed)
            if each.last_error:
                failing.add_metric((name, each.last_error), 1)
        yield from (loads, failing)
