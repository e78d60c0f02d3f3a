"""The deployment `retrain` in the Prefect UI, with its schedule and concurrency limit.

Serve it until Ctrl-C with: python -m flows.deployments --cron "0 4 * * 1"
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
    """Return the deployment `retrain/retrain`. A run that becomes due during another run is cancelled.

    Without this limit, many runs would be due at once on a laptop that was asleep for weeks.
    """
    created = retrain.to_deployment(
        name=NAME,
        parameters={"parameters": parameters.model_dump(mode="json")},
        cron=None if interval_seconds else cron,
        interval=interval_seconds,
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        description="From the site's pages to the deployed function.",
    )
    assert isinstance(created, RunnerDeployment)  # Prefect returns a coroutine only inside an event loop
    return created


def main() -> None:
    """Serve the deployment until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default="{}", help="default parameters of a run, as JSON")
    parser.add_argument("--cron", default=WEEKLY, help="schedule in cron's format (default: Mondays at 4)")
    parser.add_argument("--interval-seconds", type=float, help="seconds between scheduled runs, instead of --cron")
    args = parser.parse_args()
    parameters = RetrainParameters.model_validate_json(args.parameters)
    serve(deployment(parameters, args.cron, args.interval_seconds), pause_on_shutdown=False)


if __name__ == "__main__":
    main()
