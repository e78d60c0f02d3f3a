"""What goes wrong outside the process.

InfraError                  a service, a process or a setting outside this process
├── ServiceUnavailable          a service does not answer, or not now; trying again may help
├── ConfigurationError          a setting or a permission is missing or wrong
├── StackError                  a local process: its port is taken, or it did not start
├── DeploymentError             a build or a revision that did not become ready
├── BusyError                   another run is working in the same workspace
└── NotFound                    an object, a service or a revision that is not there
"""

from typing import ClassVar

from serving.bundle.errors import AnimeGenreError


class InfraError(AnimeGenreError):
    """Something outside this process went wrong."""


class ServiceUnavailable(InfraError):
    """A service does not answer, or not now; trying again may help."""

    retryable: ClassVar[bool] = True


class ConfigurationError(InfraError):
    """A setting or a permission is missing or wrong."""


class StackError(InfraError):
    """A local process did not start, or its port is taken."""


class DeploymentError(InfraError):
    """A build failed, or a revision did not become ready."""


class NotFound(InfraError):
    """An object, a service or a revision is not there."""


class BusyError(InfraError):
    """Another run is working in the same workspace."""
