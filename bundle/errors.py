"""Everything that can be wrong with a bundle.

BundleError
├── ManifestError   the description is missing, malformed or too new
└── PublishError    a bundle could not be written
"""


class BundleError(Exception):
    """A bundle is missing, incomplete, or not what its manifest says."""


class ManifestError(BundleError):
    """A manifest cannot be read, or says something this program does not understand."""


class PublishError(BundleError):
    """A bundle could not be written; the target is as it was before."""
