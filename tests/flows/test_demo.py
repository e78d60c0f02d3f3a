"""The parameters of `make demo`, without the networks that need downloaded weights."""

from dataclasses import replace

import pytest

from flows.demo import demo_parameters
from flows.summary import run_retrain
from infra.local.site.server import small_site
from infra.local.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.train]


def test_demo_passes_the_gate(stack: Stack) -> None:
    with small_site() as site_url:
        parameters = demo_parameters(site_url)
        train = replace(parameters.train, candidates=("scratch",), weights="none", trials=1)
        summary = run_retrain(parameters.model_copy(update={"train": train}))
    assert summary.record.evaluation.passed_gate, summary.message
    assert "is live" in summary.message
