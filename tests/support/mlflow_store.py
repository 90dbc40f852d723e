"""An MLflow store in a file for each test, as `local`: its tracking URI."""

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.tracking.uris import local_tracking_uri


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take a second and a half to make."""
    folder = tmp_path_factory.mktemp("empty")
    MlflowClient(local_tracking_uri(folder)).search_experiments()
    return folder


@pytest.fixture
def local(tmp_path: Path, empty_store: Path) -> str:
    shutil.copytree(empty_store, tmp_path / "my results")
    return local_tracking_uri(tmp_path / "my results")
