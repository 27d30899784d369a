"""The contract between export and serve: a directory that holds a model and says exactly what it is.

`manifest` is the description, `store` publishes a bundle in one step and reads it back verified. Standard library only,
so that the serving machine needs nothing else to check what it was given.
"""

from bundle.errors import BundleError, ManifestError, PublishError
from bundle.manifest import FORMAT, Manifest
from bundle.store import MANIFEST_NAME, Bundle, publish

__all__ = ["FORMAT", "MANIFEST_NAME", "Bundle", "BundleError", "Manifest", "ManifestError", "PublishError", "publish"]
