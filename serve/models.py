"""The models that are served, by name and version. Changed and found on the event loop only."""

from collections.abc import Iterator
from typing import Protocol

from serve.errors import UnknownModel
from serve.model import Model


class ModelControl(Protocol):
    """Loads and unloads models while the server runs."""

    async def load(self, name: str) -> None:
        """Serve the newest version of a model, or serve it anew; returns once it answers."""

    async def unload(self, name: str) -> None:
        """Serve no version of a model any longer; returns once what was accepted is answered."""


class Models:
    """What callers can ask for. The newest version of a name answers where none is named.

    Args:
        default: The name that answers where none is named; None where there is one name only.
    """

    def __init__(self, default: str | None = None) -> None:
        self._default = default
        self._versions: dict[str, dict[str, Model]] = {}

    def __iter__(self) -> Iterator[Model]:
        """All of them; on any thread, whatever the event loop does meanwhile."""
        for versions in list(self._versions.values()):
            yield from list(versions.values())

    def put(self, model: Model) -> Model | None:
        """Serve a model from now on.

        Returns:
            The model that was served under that name and version before.
        """
        versions = dict(self._versions.get(model.description.name, {}))
        replaced = versions.pop(model.description.version, None)
        versions[model.description.version] = model
        # Newest first, so that the first one is the one that answers without a version.
        ordered = sorted(versions, key=int, reverse=True)
        self._versions[model.description.name] = {version: versions[version] for version in ordered}
        return replaced

    def remove(self, model: Model) -> None:
        """Serve a model no longer."""
        versions = self._versions[model.description.name]
        del versions[model.description.version]
        if not versions:
            del self._versions[model.description.name]

    def find(self, name: str, version: str) -> Model:
        """The model that answers; an empty name is the default's, an empty version the newest.

        Raises:
            UnknownModel: There is none.
        """
        versions = self._versions.get(name or self._default_name())
        if versions is None:
            # Names are cut: an error travels in a header, whose size clients limit.
            raise UnknownModel(f"model {name!r:.80} is not served here; {self._known()} is")
        if not version:
            return next(iter(versions.values()))
        if version not in versions:
            raise UnknownModel(
                f"version {version!r:.80} of {name or self._default_name()!r} is not served here; "
                f"{', '.join(map(repr, versions))} is"
            )
        return versions[version]

    def _default_name(self) -> str:
        if self._default is not None:
            return self._default
        if len(self._versions) != 1:
            raise UnknownModel(f"no model was named, and there is no default; name one of {self._known()}")
        return next(iter(self._versions))

    def _known(self) -> str:
        return f"{', '.join(map(repr, sorted(self._versions))) or 'nothing'}"[:400]
