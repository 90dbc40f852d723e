"""The two real runs of the end-to-end tests: each takes minutes and runs once per session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tests.e2e.started import SAMPLES, TOKENS, ledger_of, start
from tests.support.executed import executed


@pytest.fixture(autouse=True, scope="session")
def waiting_threads_leave_their_core() -> Iterator[None]:
    """Two real programs run at a time, each with a thread a core: one that waits must not keep the other from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        yield


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
