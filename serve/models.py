"""The models that are served, by name and version. Changed and found on the event loop only."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from serve.errors import ServeError, Unavailable, UnknownModel
from serve.model import Model

AnyModel = TypeVar("AnyModel", bound=Model)


class ModelControl(Protocol):
    """Loads and unloads models while the server runs."""

    async def load(self, name: str) -> None:
        """Serve what lies on the disk under a name; returns once it answers.

        Raises:
            UnknownModel: Nothing lies there.
            LoadFailed: It cannot be served; what was served before still is.
        """

    async def unload(self, name: str) -> None:
        """Serve no version of a model any longer; returns once what was accepted is answered.

        Raises:
            UnknownModel: It is not served.
        """


@dataclass(kw_only=True)
class Loads:
    """How the loads of one model went.

    Attributes:
        succeeded: How many new or changed versions were taken into service.
        failed: How many could not be.
        last_error: Why the latest attempt failed; empty when all that lies on the disk could be loaded.
    """

    succeeded: int = 0
    failed: int = 0
    last_error: str = ""


class Models(Generic[AnyModel]):
    """What callers can ask for. The newest version of a name answers where none is named.

    Args:
        default: The name that answers where none is named; None where there is one name only.

    Attributes:
        starting: Whether more models are about to come; until then nothing is unknown for good.
        loads: By model name.
    """

    def __init__(self, default: str | None = None) -> None:
        self.starting = True
        self.loads: defaultdict[str, Loads] = defaultdict(Loads)
        self._default = default
        self._versions: dict[str, dict[str, AnyModel]] = {}

    def __iter__(self) -> Iterator[AnyModel]:
        """All of them; on any thread, whatever the event loop does meanwhile."""
        for versions in list(self._versions.values()):
            yield from list(versions.values())

    def put(self, model: AnyModel) -> None:
        """Serve a model from now on, in the place of one of its name and version."""
        versions = self._versions.get(model.description.name, {}) | {model.description.version: model}
        # Newest first, so that the first one is the one that answers without a version.
        ordered = sorted(versions, key=int, reverse=True)
        self._versions[model.description.name] = {version: versions[version] for version in ordered}

    def replace(self, models: Iterable[AnyModel], loads: Mapping[str, Loads]) -> None:
        """Serve these from now on, and no others; another process has loaded them."""
        self._versions = {}
        for model in models:
            self.put(model)
        self.loads.clear()
        self.loads.update(loads)
        self.starting = False

    def remove(self, model: AnyModel) -> None:
        """Serve a model no longer, unless another one has taken its place already."""
        name, version = model.description.name, model.description.version
        versions = self._versions.get(name, {})
        if versions.get(version) is model:
            del versions[version]
        if not versions:
            self._versions.pop(name, None)

    def find(self, name: str, version: str) -> AnyModel:
        """The model that answers; an empty name is the default's, an empty version the newest.

        Raises:
            UnknownModel: There is none.
            Unavailable: There may be one in a moment.
        """
        name = name or self._default_name()
        versions = self._versions.get(name)
        if versions is None:
            # Names are cut: an error travels in a header, whose size clients limit.
            raise self._unknown(f"model {name!r:.80} is not served here; {self._known()} is")
        if not version:
            return next(iter(versions.values()))
        if version not in versions:
            raise self._unknown(
                f"version {version!r:.80} of {name!r} is not served here; {', '.join(map(repr, versions))[:400]} is"
            )
        return versions[version]

    def _default_name(self) -> str:
        if self._default is not None:
            return self._default
        if len(self._versions) != 1:
            raise self._unknown(f"no model was named, and there is no default; name one of {self._known()}")
        return next(iter(self._versions))

    def _unknown(self, message: str) -> ServeError:
        return Unavailable("the server is starting") if self.starting else UnknownModel(message)

    def _known(self) -> str:
        return f"{', '.join(map(repr, sorted(self._versions))) or 'nothing'}"[:400]
