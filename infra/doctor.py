"""Checks of what a machine and its settings lack, each with the command that mends it. Nothing is changed."""

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import requests
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.disk import check_space
from infra.errors import DiskFull, StackError
from infra.local.processes import claim_port
from infra.local.stack import running_stack_environment
from infra.rights import Check
from infra.settings import Settings
from serving.bundle.wording import counted

_PACKAGE = "anime-genre"
_INSTALL = "make install"
_TIMEOUT_SECONDS = 5.0


def check_packages() -> Iterator[Check]:
    """Check Python and the installed packages against the project's requirements."""
    try:
        project = metadata(_PACKAGE)
    except PackageNotFoundError:
        yield Check("Packages", f"The package {_PACKAGE} is not installed for {sys.executable}.", _INSTALL)
        return
    python = ".".join(map(str, sys.version_info[:3]))
    wanted = next(iter(project.get_all("Requires-Python") or []), "")
    name = f"Python {python}"
    if not SpecifierSet(wanted).contains(python):
        remedy = f"make clean && make install PYTHON=python{wanted.lstrip('>=~ ')}"
        yield Check(name, f"Python {python} is installed, but {wanted} is required.", remedy)
    else:
        yield Check(name)
    lines = map(Requirement, project.get_all("Requires-Dist") or [])
    requirements = [each for each in lines if not each.marker or each.marker.evaluate({"extra": "pipeline"})]
    unmet = [f"{each.name}{each.specifier}" for each in requirements if not _is_met(each)]
    problem = f"{counted(len(unmet), 'package')} missing or of another version: {', '.join(unmet)}." if unmet else ""
    yield Check(f"{counted(len(requirements), 'requirement')} of packages", problem, _INSTALL if unmet else "")


def _is_met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def check_ports(workspace: Path, ports: Mapping[str, int]) -> Iterator[Check]:
    """Check that the ports of `anime-genre up`, by service, are free, unless its stack runs in the workspace."""
    if running_stack_environment(workspace):
        yield Check(f"Ports: a stack is running in {workspace}")
        return
    for name, port in ports.items():
        check = Check(f"Port {port}, {name}")
        try:
            claim_port(port, name, f"--{name}-port")
        except StackError:
            problem = f"Port {port} for {name} is taken by another program."
            check = Check(check.name, problem, f"anime-genre up --{name}-port 0")
        yield check


def check_disk(workspace: Path) -> Check:
    """Check that the workspace's disk has the space that a run needs to start."""
    name = f"Disk space for {workspace}"
    try:
        check_space(workspace, for_run=True)
    except DiskFull as error:
        return Check(name, error.message, f"du -xh --max-depth=2 {workspace} | sort -h | tail")
    return Check(name)


def check_weights(name: str, url: str, is_downloaded: bool) -> Check:
    """Check that pretrained weights are in the workspace, or can be downloaded from their address."""
    check = Check(f"Weights of {name}" + ("" if is_downloaded else ", which the first training downloads"))
    try:
        if is_downloaded or requests.head(url, timeout=_TIMEOUT_SECONDS, allow_redirects=True).ok:
            return check
    except requests.RequestException:
        pass
    problem = f"The pretrained weights of {name} are not in the workspace, and {url} cannot be downloaded."
    return Check(f"Weights of {name}", problem, "anime-genre retrain --weights none")


def check_mlflow(settings: Settings) -> Check:
    """Check that MLflow answers below its address."""
    address, credentials = settings.tracking_uri, tuple(settings.tracking_credentials.values())
    check, auth = Check(f"MLflow at {address}"), (credentials[0], credentials[1]) if credentials else None
    try:
        response = requests.get(f"{address}/health", timeout=_TIMEOUT_SECONDS, auth=auth)
    except requests.RequestException:
        problem = f"MLflow does not answer at MLFLOW_TRACKING_URI={address}."
        return Check(check.name, problem, "mlflow server --host 127.0.0.1 --port 5000")
    if response.ok:
        return check
    problem = f"MLflow at MLFLOW_TRACKING_URI={address} answers with the status {response.status_code}."
    return Check(check.name, problem, f"curl -i {address}/health")
