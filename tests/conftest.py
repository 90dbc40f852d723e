"""Fixtures that several test modules share, and the mark on the tests that need a real S3 server."""

from pathlib import Path

import pytest

from tests.contained import sandbox
from tests.mlflow_server import mlflow_backend, mlflow_on_postgres, mlflow_server, postgres
from tests.seaweed import s3_location, s3_server
from tests.tiny_model import tiny_model

__all__ = [
    "mlflow_backend",
    "mlflow_on_postgres",
    "mlflow_server",
    "postgres",
    "s3_location",
    "s3_server",
    "sandbox",
    "tiny_model",
]


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test knows what another one, or a run of this user's, has been answered."""
    monkeypatch.setenv("QUANTGATE_LEDGER", str(tmp_path / "ledger-of-this-test.sqlite"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the S3 server out of `make check`: it takes a third of a minute."""
    for item in items:
        if "s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
