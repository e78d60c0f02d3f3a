"""The OpenAPI document and what the function does are the same: schemathesis asks whatever the document allows."""

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from serving.function.openapi import document

for kind in ("jpeg", "png", "webp", "avif", "gif"):
    schemathesis.serializer.alias(f"image/{kind}", "application/octet-stream")
# What fits the schema may name no poster there is, and a string of bytes need not be an image.
_UNUSABLE = ["403", "404", "415", "422"]
schema = schemathesis.openapi.from_dict(
    document(),
    config=SchemathesisConfig.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", *_UNUSABLE]}}}
    ),
)


@schema.parametrize()
@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_every_answer_is_one_of_those_in_the_document(case: Case, url: str) -> None:
    case.call_and_validate(base_url=url)
