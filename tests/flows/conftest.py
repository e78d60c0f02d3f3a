"""A running stack for all tests of flows, and the built-in site with fewer titles."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.local.stack import Stack, local_stack
from tests.conftest import NewWorkspace
from tests.small_site import small_site

if TYPE_CHECKING:  # Prefect takes a second to import, and the fast tests do not need it
    from flows.parameters import RetrainParameters

TITLES = 150
_held = ExitStack()  # the running stack


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory, new_workspace: NewWorkspace) -> Iterator[Stack]:
    """Prefect, MLflow, and the stand-ins for storage and Cloud Run, in a new workspace."""
    yield _held.enter_context(local_stack(new_workspace(tmp_path_factory.mktemp("workspace"))))
    _held.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the running stack after the last test of flows: idle, it would take a tenth of a core from the others."""
    yield
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        _held.close()


@contextmanager
def connected(stack: Stack) -> Iterator[Stack]:
    """Connect this process to a running stack in the block."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_EXTRA_LOGGERS, temporary_settings

    settings = {
        PREFECT_API_URL: stack.environment["PREFECT_API_URL"],
        PREFECT_LOGGING_EXTRA_LOGGERS: stack.environment["PREFECT_LOGGING_EXTRA_LOGGERS"],
    }
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        for name, value in stack.environment.items():
            patch.setenv(name, value)
        yield stack


@pytest.fixture(scope="module")
def stack(running_stack: Stack) -> Iterator[Stack]:
    """The running stack, with this process connected to it during a module's tests."""
    with connected(running_stack):
        yield running_stack


@pytest.fixture(scope="session")
def site_url() -> Iterator[str]:
    """The built-in site with fewer titles."""
    with small_site(titles=TITLES) as url:
        yield url


@pytest.fixture(scope="session")
def parameters(site_url: str) -> "RetrainParameters":
    """Parameters of a run that takes seconds: small posters, one trial, few epochs."""
    from flows.parameters import RetrainParameters
    from ml.configuration import TrainConfig
    from tasks.catalogue.configuration import DatasetConfig

    return RetrainParameters(
        site_url=site_url,
        seasons="2015-winter..2019-fall",
        preprocess=DatasetConfig(image_size=32, min_posters=10, min_posters_per_part=1),
        train=TrainConfig(
            candidates=("scratch",), trials=1, epochs=8, batch_size=16, backbone="squeezenet1_1", weights="none"
        ),
    )
