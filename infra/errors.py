"""Errors of services, processes and settings.

InfraError                  an error outside this process
├── ServiceUnavailable          a service is unreachable or overloaded; a retry may help
│   ├── WorkerUnavailable           jobs failed on another machine for a temporary reason
│   ├── FunctionDown                the deployed function does not answer for longer than it needs to start
│   ├── WorkerLost                  a run on another machine has crashed or fallen silent; a retry starts it again
│   └── OutdatedError               another run has replaced an object since it was read
├── RunFailed                   a run on another machine has failed, was cancelled, or no worker takes it
├── WorkerError                 another machine cannot do its part: other versions, no permission, a full disk
├── ConfigurationError          a setting or a permission is missing or invalid
├── StackError                  a local process does not start, has ended, or its port is taken
├── DeploymentError             a build failed, or a revision is not ready or gives a wrong response
│   └── DamagedBundleError          the function cannot load its bundle from the bucket
├── DiskFull                    a disk or a quota is full
├── BusyError                   another run is using the same workspace or the same bucket
└── NotFound                    an object, a service or a revision does not exist
"""

import re
from typing import ClassVar, TypeVar

from serving.bundle.errors import AnimeGenreError

_REASON = 100  # characters of a reason in a message


class InfraError(AnimeGenreError):
    """An error outside this process."""


class ServiceUnavailable(InfraError):
    """A service is unreachable or overloaded. A retry may help."""

    retryable: ClassVar[bool] = True


class WorkerUnavailable(ServiceUnavailable):
    """Jobs failed on another machine for a temporary reason, or the machine was lost."""


class WorkerError(InfraError):
    """Another machine cannot do its part. The message names it, and the reason."""


class FunctionDown(ServiceUnavailable):
    """The deployed function gives no response, or only server errors, for longer than it needs to start."""


class WorkerLost(ServiceUnavailable):
    """A run on another machine has crashed, or its worker is gone. A retry starts it again."""


class OutdatedError(ServiceUnavailable):
    """Another run has replaced an object since it was read. A retry reads it again."""


class RunFailed(InfraError):
    """A run on another machine has failed, was cancelled, or no worker takes it. Its own steps were retried."""


class ConfigurationError(InfraError):
    """A setting or a permission is missing or invalid."""


class StackError(InfraError):
    """A local process does not start, has ended, or its port is taken."""


class DeploymentError(InfraError):
    """A build failed, or a revision is not ready or gives a wrong response."""


class DamagedBundleError(DeploymentError):
    """The function cannot load its bundle from the bucket: it is missing or damaged there."""


class NotFound(InfraError):
    """An object, a service or a revision does not exist."""


class DiskFull(InfraError):
    """A disk or a quota is full. A person must free space before the next run."""


class BusyError(InfraError):
    """Another run is using the same workspace or the same bucket."""


Error = TypeVar("Error", bound=InfraError)


def failure(kind: type[Error], what: str, reason: object, next_step: str = "", details: str = "") -> Error:
    """An error for a reason that a service or a package gives.

    The message contains the beginning of the reason. By default, the details are the reason if that is not all of it.
    """
    text = str(reason).strip().rstrip(".")
    first = re.split(r"[.?!]+\s|\n", text)[0][:_REASON].rstrip(". ")
    return kind(f"{what}: {first}. {next_step}".rstrip(), details or ("" if first == text else text))
