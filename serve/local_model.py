"""A model whose engines are in this process: read from its bundle, checked, and fed by a batcher."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from bundle import Bundle, BundleError
from bundle.manifest import INPUT, OUTPUT
from bundle.probe import PROBE
from serve.batcher import Answer, Batcher, BatchObserver, Counts
from serve.config import ServeConfig
from serve.engines import CLASSES, IMAGE_SHAPE, OpenEngine, Pixels
from serve.engines.selection import Selection, select
from serve.engines.tuning import Tuner, Tuning
from serve.errors import StartupError
from serve.model import Description, Model
from serve.probe import MAX_DIFFERENCE, Bounds, Probe, checked
from serve.repository import Source

log = logging.getLogger(__name__)


class LocalModel(Model):
    """A model and its batcher.

    Lifecycle: `open` (blocks; verifies the bundle), `start` (opens, checks and warms up the engines), `classify` many
    times, then `drain` or `abort` of its batcher.

    Attributes:
        batcher: Where images go.
        source: Where it was read from, and what was there.
    """

    def __init__(self, source: Source, description: Description, batcher: Batcher, *, max_deadline_s: float) -> None:
        super().__init__(description, max_deadline_s=max_deadline_s)
        self.batcher = batcher
        self.source = source

    @classmethod
    def open(
        cls,
        source: Source,
        config: ServeConfig,
        *,
        on_failure: Callable[[], None] = lambda: None,
        observer: Callable[[str, str], BatchObserver] = lambda _name, _version: BatchObserver(),
        arriving: Callable[[], int] = lambda: 0,
        tuner: Tuner,
    ) -> Self:
        """Verify a bundle and choose what computes it. Nothing is started yet.

        Args:
            source: The bundle.
            config: The configuration.
            on_failure: Called on the event loop, once, when an engine has died and the model can answer no more.
            observer: Gives the batcher's observer for a name and a version.
            arriving: How many requests are known to be on their way.
            tuner: Measures what is neither configured nor given by the engine.

        Raises:
            StartupError: The bundle is not what the source says, or not usable on this machine or with this
                configuration.
        """
        bundle = _open_bundle(source)
        selection = _select(bundle, config)
        manifest = bundle.manifest
        tuning = _tune(source.path, tuner, manifest.architecture, selection, config)
        max_batch = config.max_batch or tuning.batch
        description = Description(
            name=manifest.name,
            version=manifest.version,
            architecture=manifest.architecture,
            labels=manifest.labels,
            max_batch=max_batch,
            max_images_per_request=config.max_images_per_request,
            sha256=manifest.files[selection.file].sha256,
            accuracy=selection.accuracy,
        )
        slots = config.slots or tuning.slots
        log.info("%s: %d engines side by side, up to %d images a call", source.path, slots, max_batch)
        batcher = Batcher(
            _checked(bundle, selection, config, max_batch),
            slots=slots,
            max_batch=max_batch,
            queue_images=config.queue_images,
            shares_cores=selection.shares_cores,
            arriving=arriving,
            max_queue_delay_s=config.max_queue_delay_us / 1e6,
            observer=observer(manifest.name, manifest.version),
            on_failure=on_failure,
        )
        return cls(source, description, batcher, max_deadline_s=config.max_deadline_s)

    async def start(self) -> None:
        """Open, check and warm up the engines, then accept requests.

        Raises:
            StartupError: They cannot run this model, or fail its check. Nothing is left running.
        """
        with _as_startup_errors(self.source.path):
            engine = await self.batcher.start()
        self.description = dataclasses.replace(
            self.description, engine=engine.name, device=engine.device, precision=engine.precision
        )

    @property
    def refusal(self) -> str | None:
        """See `Model.refusal`."""
        return self.batcher.refusal

    async def counts(self) -> Counts:
        """See `Model.counts`."""
        return self.batcher.counts

    async def _submit(self, pixels: Pixels, deadline: float) -> Answer:
        return await self.batcher.submit(pixels, deadline=deadline)


def _tune(path: Path, tuner: Tuner, architecture: str, selection: Selection, config: ServeConfig) -> Tuning:
    """The engines and the batch, as far as they are not configured."""
    if selection.batch is not None:
        return Tuning(slots=selection.slots, batch=selection.batch)
    if config.slots and config.max_batch:
        return Tuning(slots=config.slots, batch=config.max_batch)
    most_slots = 1 if config.slots else selection.slots  # where it is configured, it need not be measured
    with _as_startup_errors(path):
        return tuner.tune((architecture, selection.file), selection.open, most_slots=most_slots)


@contextmanager
def _as_startup_errors(path: Path) -> Iterator[None]:
    """Around the first use of an engine, whose library raises what it likes."""
    try:
        yield
    except StartupError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        raise StartupError(f"{path}: the engine cannot run this model: {error}") from error


def check_bundle(source: Source, config: ServeConfig, tuner: Tuner) -> str:
    """Whether a bundle could be served with this configuration; it answers its probe set, in a server's batches.

    Returns:
        What would be served, in a line.

    Raises:
        StartupError: It could not.
    """
    bundle = _open_bundle(source)
    selection = _select(bundle, config)
    tuning = _tune(source.path, tuner, bundle.manifest.architecture, selection, config)
    open_engine = _checked(bundle, selection, config, config.max_batch or tuning.batch)
    with _as_startup_errors(source.path), open_engine() as engine:
        engine.run(np.zeros((1, *IMAGE_SHAPE), np.uint8))
    manifest = bundle.manifest
    return (
        f"ok: {source.path} is {manifest.name} version {manifest.version}; {selection.file} runs with {engine.name} "
        f"on {engine.device}"
    )


def _open_bundle(source: Source) -> Bundle:
    """The verified bundle, which is what its folders say, and whose model takes and gives what this server does."""
    path = source.path
    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        raise StartupError(str(error)) from error
    manifest = bundle.manifest
    if (manifest.name, manifest.version) != (source.name, source.version):
        raise StartupError(
            f"{path}: the manifest is of {manifest.name} version {manifest.version}, {source.name} version "
            f"{source.version} was expected; move it to the folder of its name and version, or export it under these"
        )
    for found, expected in ((manifest.input, INPUT), (manifest.output, OUTPUT)):
        if found != expected:
            raise StartupError(f"{path}: the model has {found}, {expected} was expected; export it again")
    if len(manifest.labels) != CLASSES:
        labels = len(manifest.labels)
        raise StartupError(f"{path}: the model has {labels} labels, {CLASSES} were expected; export it again")
    return bundle


def _checked(bundle: Bundle, selection: Selection, config: ServeConfig, max_batch: int) -> OpenEngine:
    """Opens the engines that answer the bundle's probe set."""
    try:
        probe = Probe.of(bundle)
    except BundleError as error:
        raise StartupError(f"{bundle.path}: {error}") from error
    if probe is None:
        log.warning("%s has no %s, so its answers are not checked; export it again", bundle.path, PROBE)
        return selection.open
    manifest = bundle.manifest
    entry = manifest.graphs.get(selection.file) or manifest.plans[selection.file]
    # What the gate has let pass under other tolerances may be so here, too.
    allowed = max(MAX_DIFFERENCE.get(entry.precision, 0.0), entry.parity.max_difference if entry.parity else 0.0)
    bounds = Bounds(max_difference=allowed, max_latency_ms=config.check_latency_ms)
    return checked(selection.open, probe, bounds, max_batch=max_batch)


def _select(bundle: Bundle, config: ServeConfig) -> Selection:
    """The engine that serves, able to take the batches that are configured."""
    try:
        selection = select(bundle, config.engine)
    except BundleError as error:
        raise StartupError(str(error)) from error
    if config.slots is not None and selection.most_slots is not None and config.slots > selection.most_slots:
        raise StartupError(
            f"--slots is {config.slots}; {selection.file} on this GPU takes at most {selection.most_slots}"
        )
    largest = selection.largest_batch
    if config.max_batch is not None and largest is not None and config.max_batch > largest:
        raise StartupError(
            f"--max-batch is {config.max_batch}; {selection.file} takes at most {largest} images at a time"
        )
    return selection
