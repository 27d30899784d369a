"""Everything that can be configured, in one place, checked before anything starts."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from serve.engines.selection import EngineName
from serve.errors import StartupError
from serve.repository import VERSIONS

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What a server can be told, by flags, by DIGITS_SERVE_NAME in the environment, or by a line of the TOML file.

    Raises:
        StartupError: A value is out of range; the message names the field, the value and what is allowed.
    """

    models: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")] = Path("pretrained/champion")
    """Directory made by `python -m export.to_onnx`, or a folder of such ones, NAME/VERSION each. Every file is checked
    against its digest before it is used."""

    versions: str = "latest"
    """Which versions of a model in such a folder are served: latest, all, or those named, such as 1,3. Where the latest
    is broken the one before it is."""

    default_model: str | None = None
    """The model that answers requests that name none. Default: the only one; with several, a name is required."""

    watch: bool = False
    """Serve new, changed and removed bundles as they come, change and go, without a restart."""

    model_control: bool = False
    """Let callers load and unload models. Off, because whoever can reach the port could take a model out of service."""

    check_latency_ms: float = 250.0
    """A model whose engine takes longer for a call, in the median over its probe set of up to 32 images a call, is not
    served. The default is twenty times what the largest network of this project takes on one core."""

    host: str = "127.0.0.1"
    """Address to listen on. The default admits callers of this machine only; 0.0.0.0 or [::] admits everybody."""

    port: int = 8001
    """TCP port to listen on; 0 takes a free one, which the line `ready HOST:PORT` on standard output names."""

    engine: EngineName = "auto"
    """What computes. auto: the first of tensorrt, onnxruntime-cuda, onnxruntime-int8 and onnxruntime that this machine
    and the bundle allow. A name takes that one, or the server does not start."""

    frontends: int = 0
    """Processes that answer calls, beside one with the engines, which all of them feed. 0: one process does both. Worth
    it where one process's front end is the limit, some 6,000 calls a second, and there are cores to spare."""

    slots: int | None = None
    """Engine calls that run side by side, each on one thread. Default: on a CPU as many as the cores that this process
    may use can run, measured at the start; two on a GPU, so that one copies while the other computes."""

    max_batch: int | None = None
    """Most images in one engine call, which all of its callers wait for. Default: on a CPU the smallest batch that is
    nearly as fast as any, measured at the start; on a GPU 256, or what the TensorRT plan was built for."""

    queue_images: int = 2048
    """Most images waiting for an engine; a request that does not fit is refused at once with RESOURCE_EXHAUSTED.
    Bounds the waiting time: allow about 0.05 ms per image and core for the smallest network on a CPU."""

    max_queue_delay_us: int = 0
    """Microseconds that a free engine may wait after the oldest request's arrival for more images, up to a full batch.
    0 never waits. Saves work on an engine whose calls cost much to begin, at the price of everybody's time."""

    max_images_per_request: int = 1024
    """Most images in one request. A request larger than `max_batch` is split and answered whole."""

    picture_workers: int = 2
    """Most processes that read encoded pictures, one picture at a time each, started when there are pictures; with
    `frontends`, at least one for each. 0 refuses pictures. Worth raising where they wait and there are cores to spare;
    needs the extra `pictures`."""

    max_picture_bytes: int = 4_000_000
    """Most bytes of an encoded picture, and of all in a request if that is more than 4 MiB. Above the default callers
    can send larger messages, and so fill more memory."""

    max_pictures_per_request: int = 16
    """Most encoded pictures in one request. Four times as many may be under way at once, with `frontends` in each
    of them; a request that does not fit is refused at once with RESOURCE_EXHAUSTED."""

    max_picture_s: float = 5.0
    """Seconds after which a picture is given up. The largest photographs take one or two."""

    max_calls: int = 4096
    """Most calls under way at once, waiting ones and health watches included; more are refused with
    RESOURCE_EXHAUSTED. Bounds the memory of messages that are still arriving, up to 4 MiB each. One connection gets at
    most a quarter of it, and 512; streams get at most half."""

    max_pending_calls: int | None = None
    """Most calls that have come and were not looked at yet; gRPC ends more of them at once, as CANCELLED. Default:
    no limit, which suits callers who rather wait. Where callers give up after some milliseconds, what is answered in a
    third of that time keeps a server useful when more comes than it can answer: looking at calls in order to refuse
    them takes nearly half as long as answering them."""

    max_deadline_s: float = 30.0
    """Seconds from its message's arrival after which a call is given up whose caller set no deadline of its own, or a
    longer one. The message itself has as long to arrive whole; of a stream see `max_stream_idle_s`."""

    max_stream_idle_s: float = 600.0
    """Seconds without a message, of which a part is none, after which a stream is ended, besides the `max_deadline_s`
    that its last answer may take."""

    max_connections: int | None = None
    """Most connections at once; more are closed as they come. Default: three quarters of the files that the process
    may have open (`ulimit -n`)."""

    max_connection_idle_s: float = 600.0
    """Seconds without a call after which a connection is closed; clients connect again with their next call."""

    max_connection_age_s: float = 3600.0
    """Seconds, give or take a tenth, after which a connection is closed: clients connect again unseen, and those that
    balance find new servers. Streams then have twice `max_deadline_s` to end, and so has who does not read what he
    asked for."""

    tls_cert: Path | None = None
    """PEM file with the server's certificate, then those that vouch for it. With --tls-key the port speaks TLS; files
    that change are taken up by the next connection."""

    tls_key: Path | None = None
    """PEM file with the certificate's private key, not encrypted."""

    tls_client_ca: Path | None = None
    """PEM file with the certificates that vouch for clients, each of which must then present one."""

    token_file: Path | None = None
    """File with one secret a line, of at least 16 bytes. Callers must send one as `authorization: Bearer SECRET`; only
    health checks need none. A file that changes is read again."""

    grace_s: float = 10.0
    """Seconds that requests in flight are given after SIGTERM or SIGINT. A second signal ends them at once."""

    log_level: str = "info"
    """Least level of the log on standard error: debug, info, warning or error."""

    log_format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""

    access_log: float = 0.0
    """Share of the requests that get a line in the log, 0 to 1, of which ten a second are written in the long run.
    Requests that end with INTERNAL always count among them."""

    metrics_port: int | None = None
    """TCP port where Prometheus scrapes /metrics; 0 takes a free one, which the log names. Default: none."""

    metrics_host: str = "127.0.0.1"
    """Address that `metrics_port` is on. The default admits scrapers of this machine only."""

    otel_endpoint: str | None = None
    """URL of an OpenTelemetry collector that speaks OTLP over HTTP, such as http://127.0.0.1:4318, which gets a span of
    every request; OTEL_EXPORTER_OTLP_ENDPOINT sets it, too. Default: no traces."""

    def __post_init__(self) -> None:
        """Check every field."""
        without_port = ":" not in self.host or self.host.startswith("[")
        self._check("host", without_port, "a name or an address without a port, IPv6 in brackets such as [::1]")
        self._check("port", 0 <= self.port <= 65535, "0 to 65535")
        self._check("versions", VERSIONS.fullmatch(self.versions) is not None, "latest, all, or versions such as 1,3")
        self._check("check_latency_ms", 0 < self.check_latency_ms <= 60_000, "above 0, up to 60000")
        most = 256 if sys.platform == "linux" else 0
        self._check("frontends", 0 <= self.frontends <= most, f"0 to {most}, more than 0 on Linux only")
        self._check("slots", self.slots is None or 1 <= self.slots <= 256, "1 to 256")
        self._check("max_batch", self.max_batch is None or 1 <= self.max_batch <= 65536, "1 to 65536")
        self._check("max_images_per_request", 1 <= self.max_images_per_request <= 65536, "1 to 65536")
        self._check(
            "queue_images",
            self.max_images_per_request <= self.queue_images <= 1 << 20,
            f"{self.max_images_per_request} (--max-images-per-request) to {1 << 20}, or a request might never fit",
        )
        self._check("max_queue_delay_us", 0 <= self.max_queue_delay_us <= 1_000_000, "0 to 1000000")
        self._check("picture_workers", 0 <= self.picture_workers <= 256, "0 to 256")
        self._check("max_picture_bytes", 1 <= self.max_picture_bytes <= 1 << 30, f"1 to {1 << 30}")
        self._check("max_pictures_per_request", 1 <= self.max_pictures_per_request <= 1024, "1 to 1024")
        self._check("max_picture_s", 0 < self.max_picture_s <= 3600, "above 0, up to 3600")
        self._check("max_calls", 1 <= self.max_calls <= 1 << 20, f"1 to {1 << 20}")
        self._check(
            "max_pending_calls",
            self.max_pending_calls is None or 1 <= self.max_pending_calls <= 1 << 20,
            f"1 to {1 << 20}",
        )
        self._check("max_deadline_s", 0 < self.max_deadline_s <= 3600, "above 0, up to 3600")
        self._check("max_stream_idle_s", 0 < self.max_stream_idle_s <= 1 << 20, f"above 0, up to {1 << 20}")
        self._check(
            "max_connections", self.max_connections is None or 1 <= self.max_connections <= 1 << 20, f"1 to {1 << 20}"
        )
        self._check("max_connection_idle_s", 1 <= self.max_connection_idle_s <= 1 << 20, f"1 to {1 << 20}")
        self._check("max_connection_age_s", 1 <= self.max_connection_age_s <= 1 << 20, f"1 to {1 << 20}")
        self._check(
            "tls_key", (self.tls_key is None) == (self.tls_cert is None), "a file exactly if --tls-cert is given"
        )
        self._check("tls_client_ca", not self.tls_client_ca or bool(self.tls_cert), "no file without --tls-cert")
        self._check("grace_s", 0 <= self.grace_s <= 3600, "0 to 3600")
        self._check("log_level", self.log_level in LOG_LEVELS, f"one of {', '.join(LOG_LEVELS)}")
        self._check("access_log", 0 <= self.access_log <= 1, "0 to 1")
        self._check("metrics_port", self.metrics_port is None or 0 <= self.metrics_port <= 65535, "0 to 65535")
        self._check(
            "otel_endpoint",
            self.otel_endpoint is None or self.otel_endpoint.startswith(("http://", "https://")),
            "a URL that begins with http:// or https://",
        )

    def _check(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            flag = field.replace("_", "-")
            raise StartupError(f"--{flag} is {getattr(self, field)!r}; expected {allowed}")
