"""The command `doctor`: prints what this machine and its settings have and lack, in the order in which it is mended."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from flows.prefect_access import api_url, is_server_reachable, separate_password
from infra.doctor import (
    check_address,
    check_disk,
    check_packages,
    check_ports,
    check_weights,
)
from infra.rights import Check, check_google_cloud
from infra.settings import Settings


def run_doctor(workspace: Path, ports: Mapping[str, int], settings: Settings) -> int:
    """Print one line per check, and below each problem the command that mends it. Return the exit code."""
    problems = 0
    checks = chain(
        check_packages(),
        check_ports(workspace, ports),
        [check_disk(workspace)],
        _check_weights(workspace),
        check_google_cloud(settings) if settings.cloud == "google" else [],
        _check_addresses(settings),
    )
    for check in checks:
        if check.problem:
            problems += 1
            print(f"MISSING  {check.problem}\n         Mend it with: {check.remedy}", flush=True)
        else:
            print(f"ok       {check.name}", flush=True)
    if problems:
        print(f"\n{problems} missing. Mend them in this order, and run anime-genre doctor again.")
    else:
        print("\nNothing is missing.")
    return 1 if problems else 0


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
        credentials = tuple(settings.tracking_credentials.values())
        auth = (credentials[0], credentials[1]) if credentials else None
        start = "mlflow server --host 127.0.0.1 --port 5000"
        yield check_address("MLflow", "MLFLOW_TRACKING_URI", settings.tracking_uri, start, auth)
