"""The command `doctor`: prints what this machine and its settings have and lack, in the order in which it is mended."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flows.prefect_access import api_url, is_server_reachable, separate_password
from infra.doctor import (
    check_disk,
    check_mlflow,
    check_packages,
    check_ports,
    check_weights,
)
from infra.rights import Check, check_google_cloud
from infra.settings import Settings


def run_doctor(workspace: Path, ports: Mapping[str, int], settings: Settings, trial: bool) -> int:
    """Print one line per check, and below each problem the command that mends it. Return the exit code.

    With `trial`, and if nothing is missing on Google Cloud, a tiny model is deployed to a service that is then deleted.
    """
    is_google = settings.cloud == "google" and not settings.cloud_run_endpoint
    problems = _show(check_packages())
    problems += _show(check_ports(workspace, ports))
    problems += _show([check_disk(workspace)])
    problems += _show(_check_weights(workspace))
    on_google = _show(check_google_cloud(settings, trial=trial)) if is_google else 0
    problems += on_google + _show(_check_addresses(settings))
    if problems:
        print(f"\n{problems} missing. Mend them in this order, and run anime-genre doctor again.")
    else:
        print("\nNothing is missing.")
    if trial and on_google:
        print("The trial does not take place before that is mended.")
    elif trial:
        from flows.trial import run_trial

        print("Trying a deployment. A build takes some minutes.", flush=True)
        problems += _show(run_trial(settings), "FAILED ", "To see why")
    return 1 if problems else 0


def _show(checks: Iterable[Check], label: str = "MISSING", remedy: str = "Mend it with") -> int:
    """Print the checks, and return the number of problems."""
    problems = 0
    for check in checks:
        if check.problem:
            problems += 1
            print(f"{label}  {check.problem}\n         {remedy}: {check.remedy}", flush=True)
        else:
            print(f"ok       {check.name}", flush=True)
    return problems


def _check_weights(workspace: Path) -> Iterator[Check]:
    """Check the weights of the default backbone. Without torchvision, `check_packages` has named that."""
    try:
        from ml.networks.weights import imagenet_url, is_downloaded
    except ImportError:
        return
    from ml.configuration import TrainConfig

    backbone = TrainConfig().backbone
    url = imagenet_url(backbone)
    yield check_weights(backbone, url, is_downloaded(url, workspace / "weights"))


def _check_addresses(settings: Settings) -> Iterator[Check]:
    """Check the servers of Prefect and MLflow that the environment names. Without one, `up` and `retrain` start it."""
    separate_password()
    if address := api_url():
        problem = "" if is_server_reachable() else f"No Prefect server is reachable at PREFECT_API_URL={address}."
        yield Check(f"Prefect at {address}", problem, "prefect server start" if problem else "")
    if settings.tracking_uri.startswith("http"):
        yield check_mlflow(settings)
