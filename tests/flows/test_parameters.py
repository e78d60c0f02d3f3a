"""Invalid settings: refused by Prefect's API before a run exists, and by the flow before its first step."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError

from flows.deployments import deployment
from flows.parameters import RetrainParameters
from flows.retrain import retrain
from flows.summary import recorded_steps
from infra.local.stack import Stack
from ml.configuration import TrainConfig
from ml.training.candidates import CANDIDATES

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def deployment_id(stack: Stack, parameters: RetrainParameters) -> UUID:
    deployment_id = deployment(parameters).apply()
    assert isinstance(deployment_id, UUID)
    return deployment_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": {"candidates": ["scrach"]}}, "'scrach' is not one of"),
        ({"train": {"candidates": []}}, "should be non-empty"),
        ({"preprocess": {"labels": ["tags"]}}, "'tags' is not one of"),
        ({"train": {"candidates": "scratch,frozen"}}, "is not of type 'array'"),
        ({"train": {"device": "gpu"}}, "'gpu' does not match"),
        ({"train": {"backbone": "ResNet 18"}}, "'ResNet 18' does not match"),
        ({"train": {"epochs": 0}}, "0 is less than the minimum of 1"),
        ({"train": {"epoch": 3}}, "'epoch' was unexpected"),
        ({"collect": {"max_lost_titles": 5}}, "5 is greater than the maximum of 1"),
        ({"gate": {"false_promotions": 0}}, "0 is less than the minimum of 0.001"),
        ({"seasons": "2015-sumer"}, "'2015-sumer' does not match"),
        ({"site_url": "myanimelist.net"}, "'myanimelist.net' does not match"),
        ({"source": "web"}, "'web' is not one of"),
    ],
)
def test_api_refuses_invalid_settings_before_a_run_exists(
    client: SyncPrefectClient, deployment_id: UUID, changes: dict[str, Any], reason: str
) -> None:
    runs = len(client.read_flow_runs())
    with pytest.raises(PrefectHTTPStatusError) as error:
        client.create_flow_run_from_deployment(deployment_id, parameters={"parameters": changes})
    assert error.value.response.status_code == 409
    assert reason in error.value.response.json()["detail"]
    assert len(client.read_flow_runs()) == runs


def test_form_has_choices_titles_and_descriptions_with_the_most_used_settings_first(
    client: SyncPrefectClient, deployment_id: UUID
) -> None:
    schema = client.read_deployment(deployment_id).parameter_openapi_schema
    run, train = (schema["definitions"][name]["properties"] for name in ("RetrainParameters", "TrainConfig"))
    assert list(run)[:4] == ["seasons", "site_url", "source", "train"]
    assert list(train)[:3] == ["candidates", "backbone", "weights"]
    assert train["candidates"]["items"]["enum"] == list(CANDIDATES)
    for definition in schema["definitions"].values():
        for name, entry in definition["properties"].items():
            assert entry["title"][0].isupper(), name
            assert "$ref" in entry or entry["description"].endswith("."), name


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"train": TrainConfig(backbone="resnet19")}, "SettingError", "resnet19"),
        ({"train": TrainConfig(weights="absent.pth")}, "WeightsError", "absent.pth"),
        ({"seasons": "2019-fall..2015-winter"}, "SeasonError", "end before they begin"),
        ({"site_url": "https://example.org"}, "ConfigurationError", "ANIME_GENRE_CONTACT"),
        ({"source": "api"}, "ConfigurationError", "MAL_CLIENT_ID"),
    ],
)
def test_flow_refuses_settings_that_a_schema_cannot_check_before_its_first_step(
    stack: Stack, parameters: RetrainParameters, changes: dict[str, Any], error: str, reason: str
) -> None:
    state = retrain(parameters.model_copy(update=changes), return_state=True)
    assert state.is_failed()
    assert error in str(state.message) and reason in str(state.message)
    assert recorded_steps(state.state_details.flow_run_id) == []
