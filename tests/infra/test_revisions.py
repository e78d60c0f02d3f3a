"""Cloud Run's messages about revisions as the project reads them."""

import pytest
from google.cloud import run_v2

from infra.revisions import Resources, read_revision


@pytest.mark.parametrize(
    ("cpu", "memory", "expected"),
    [
        ("1", "1Gi", Resources("1", "1Gi")),
        ("1000m", "1024Mi", Resources("1", "1Gi")),
        ("2000m", "512Mi", Resources("2", "512Mi")),
        ("500m", "1536Mi", Resources("500m", "1536Mi")),
    ],
)
def test_resources_are_read_in_the_units_of_the_settings(cpu: str, memory: str, expected: Resources) -> None:
    limits = run_v2.ResourceRequirements(limits={"cpu": cpu, "memory": memory})
    revision = run_v2.Revision(name="r", containers=[run_v2.Container(image="i", resources=limits)])
    assert read_revision(revision, None).resources == expected
