"""What the Prefect UI lists: the deployment `retrain`, its schedule and its limit.

python -m flows.deployments --cron "0 4 * * 1"      serves it until Ctrl-C
"""

import argparse

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment

from flows.parameters import RetrainParameters
from flows.retrain import retrain

WEEKLY = "0 4 * * 1"
NAME = "retrain"


def deployment(parameters: RetrainParameters, cron: str | None, interval_seconds: float | None) -> RunnerDeployment:
    """The deployment `retrain/retrain`: one run at a time, a run that comes due meanwhile is cancelled.

    A laptop that was asleep for weeks has many runs due at once; without the limit they would pile up.
    """
    made = retrain.to_deployment(
        name=NAME,
        parameters={"parameters": parameters.model_dump(mode="json")},
        cron=None if interval_seconds else cron,
        interval=interval_seconds,
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        description="From the site's pages to the answering endpoint.",
    )
    assert isinstance(made, RunnerDeployment)  # Prefect gives a coroutine instead only where a loop runs
    return made


def main() -> None:
    """Serve the deployment until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default="{}", help="defaults of the form, as JSON")
    parser.add_argument("--cron", default=WEEKLY, help="when runs start by themselves (default: Mondays at 4)")
    parser.add_argument("--interval-seconds", type=float, help="start a run this often instead")
    args = parser.parse_args()
    parameters = RetrainParameters.model_validate_json(args.parameters)
    serve(deployment(parameters, args.cron, args.interval_seconds), pause_on_shutdown=False)


if __name__ == "__main__":
    main()
