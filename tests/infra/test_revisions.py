"""Cloud Run's messages about revisions as the project reads them."""

import pytest
from google.cloud import run_v2

from infra.revisions import Revision, read_revision, resources
from infra.settings import Settings


def read(cpu: str, memory: str) -> Revision:
    limits = run_v2.ResourceRequirements(limits={"cpu": cpu, "memory": memory})
    return read_revision(run_v2.Revision(name="r", containers=[run_v2.Container(image="i", resources=limits)]), None)


@pytest.mark.parametrize(
    ("cpu", "memory", "expected"),
    [
        ("1", "1Gi", ("1", "1Gi")),
        ("1000m", "1024Mi", ("1", "1Gi")),
        ("2000m", "512Mi", ("2", "512Mi")),
        ("500m", "1536Mi", ("500m", "1536Mi")),
    ],
)
def test_resources_are_read_in_the_units_of_the_settings(cpu: str, memory: str, expected: tuple[str, str]) -> None:
    found = read(cpu, memory).resources
    assert (found.cpu, found.memory) == expected


@pytest.mark.parametrize("memory", ["1024Mi", "1Gi", "1536Mi"])
def test_resources_of_the_settings_are_those_that_are_read_back(memory: str) -> None:
    """Else each run would deploy the champion again."""
    assert resources(Settings(function_memory=memory)) == read("1", memory).resources
