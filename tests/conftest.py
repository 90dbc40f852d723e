"""Fixtures of several test modules, and marks and skipped imports that keep `make check` fast."""

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from quantgate.components.processes.scratch import use_own_folder
from tests.support.contained import sandbox
from tests.support.mlflow_server import mlflow_backend, mlflow_on_postgres, mlflow_server, postgres
from tests.support.seaweed import s3_location, s3_server
from tests.support.tiny_model import tiny_model
from tests.support.unstored import weights_of_no_store

__all__ = [
    "mlflow_backend",
    "mlflow_on_postgres",
    "mlflow_server",
    "postgres",
    "s3_location",
    "s3_server",
    "sandbox",
    "tiny_model",
    "weights_of_no_store",
]


def pytest_configure(config: pytest.Config) -> None:
    """Put the temporary files of all tests, and of the processes that they start or kill, into one scratch folder.

    pytest keeps the folders of its last three sessions where they always were.
    """
    if hasattr(config, "workerinput"):  # a worker inherits its controller's
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    use_own_folder()
    Path(tempfile.gettempdir()).chmod(0o711)  # PostgreSQL refuses to run as root
    inside = Path(
        tempfile.gettempdir(), "tests"
    )  # one level down, for `quantgate` puts its own beside a scratch folder
    inside.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(inside)


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty answer ledger, separate from other tests' and the user's."""
    monkeypatch.setenv("QUANTGATE_LEDGER", str(tmp_path / "ledger-of-this-test.sqlite"))


@pytest.fixture(autouse=True, scope="session")
def aws_descriptions() -> Iterator[None]:
    """Read botocore's descriptions of AWS once; otherwise every session would parse 2 MB again."""
    from botocore.loaders import JSONFileLoader

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", functools.cache(JSONFileLoader.load_file))
        yield


SLOW_FIXTURES = {
    "s3_server": "SeaweedFS takes seconds to start, and its tests move files",
    "tiny_model": "PyTorch and transformers take five seconds to import",
}
SLOW_MODULE = re.compile(r"^pytestmark = \[?\s*(pytest\.mark\.e2e,\s*)?pytest\.mark\.slow\b", re.MULTILINE)


TOGETHER = re.compile(
    r"tests/test_(local|local_recorded|notebooks|execute_hostile|quantize_check|own_recipes|track_history|structure)\.py|tests/e2e/test_\w+\.py|\[(mlflow_server|mlflow_on_postgres)\b"
)
"""Matches the ids of tests that share a slow fixture and so run in one worker."""
READS_THE_DEMO = re.compile(r"tests/e2e/test_(run|notebooks)\.py")
LONGEST = (
    "tests/e2e/test_run.py",
    "tests/e2e/test_full_suites.py",
    "tests/e2e/test_suites.py",
    "tests/test_local.py",
    "tests/e2e/test_gpu_rehearsal.py",
    "tests/test_local_recorded.py",
    "tests/e2e/",
    "tests/test_models.py",
    "tests/test_notebooks.py",
    "tests/test_track_backends.py",
)
"""The tests that take longest start first, so that no worker waits for them at the end."""


class InGroups(LoadScopeScheduling):  # type: ignore[misc]
    """Gives tests of one group to one worker. xdist's own `loadgroup` does nothing under pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        if READS_THE_DEMO.search(nodeid):
            return "demo"
        group = TOGETHER.search(nodeid)
        return group[0] if group else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> InGroups:
    """Distribute the tests in groups, and the others one by one, in the order in which they are collected."""
    config.option.loadscopereorder = False
    return InGroups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, and mark those that need a slow fixture."""
    items.sort(
        key=lambda item: next((place for place, test in enumerate(LONGEST) if test in item.nodeid), len(LONGEST))
    )
    for item in items:
        if SLOW_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules of which no test is selected: many import PyTorch or MLflow."""
    if "not e2e" in config.option.markexpr and collection_path.name == "e2e":
        return True
    if "not slow" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return True if SLOW_MODULE.search(collection_path.read_text(encoding="utf-8")) else None
