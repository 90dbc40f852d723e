"""The two real runs of the end-to-end tests: each takes minutes and runs once per session."""

from pathlib import Path

import pytest
from nbformat import NotebookNode

from tests.e2e.started import SAMPLES, TOKENS, ledger_of, start
from tests.support.executed import executed


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the embedded model and all variants."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    status = start(out).wait()
    assert status == 0, out.with_suffix(".txt").read_text()[-3000:]
    return out


@pytest.fixture(scope="session")
def second(demo: Path) -> tuple[Path, NotebookNode]:
    """A run of the first notebook, as it is committed, on the weights and the ledger of the first run."""
    out = demo.with_name("second")
    values = {
        "OUT": str(out),
        "STORE": str(demo / "store"),
        "CALIBRATION_SAMPLES": SAMPLES,
        "CALIBRATION_TOKENS": TOKENS,
    }
    return out, executed("01_first_run", out.parent, timeout_s=3000, ledger=ledger_of(out), **values)
