"""What MLflow records of a pipeline run beside the gate's decision: its identity, its versions and its files."""

import getpass
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field

from quantgate.components.storage.artifact import Artifact
from quantgate.components.tracking.kubeflow_run import KubeflowRun, kubeflow_run

PACKAGES = (
    "quantgate",
    "torch",
    "transformers",
    "llmcompressor",
    "compressed-tensors",
    "lm-eval",
    "datasets",
    "kfp",
    "mlflow",
)
"""Whose versions explain a difference between two runs; vLLM's comes from its server (`Server.engine`)."""


class RunFacts(Artifact):
    """What identifies one pipeline run in MLflow."""

    run_id: str
    """The pipeline's own id; tracking the same id again updates what is there."""
    name: str
    """What MLflow shows in its list of runs."""
    started_at: float = 0.0
    """Unix time in seconds at which the run began; 0: the moment of recording."""
    judged_at: float = 0.0
    """Unix time in seconds at which the run was recorded; 0 in facts of an earlier version."""
    commit: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str] = Field(default_factory=dict)
    """The machine that recorded it: cpu, gpu, and the container image if known."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Further parameters of the run, e.g. the serving engine."""
    kubeflow: KubeflowRun | None = None
    """What Kubeflow's MLflow plugin said of the step that recorded the run; None without the plugin."""
    judged_by: str = ""
    """The hash by which a later run finds this run's verdict, see earlier.py; empty: a later run does not find it."""

    @property
    def decided_at(self) -> float:
        """The time that orders verdicts; facts of an earlier version have it as `started_at`."""
        return self.judged_at or self.started_at


@dataclass(frozen=True)
class RunFiles:
    """The files to store beside the numbers; every one must exist."""

    report: tuple[Path, ...] = ()
    """The pipeline run's own: report.html, report.md, verdicts.json."""
    variants: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Further files of a variant. Its records, if they are a local file, are stored without being listed here."""

    flips: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    """By variant, the questions that it answers differently from the baseline: a table, columns by name."""

    def check(self) -> None:
        """Raise FileNotFoundError for the first file that does not exist."""
        for path in (*self.report, *(path for paths in self.variants.values() for path in paths)):
            if not path.is_file():
                raise FileNotFoundError(f"The file to track does not exist: {path}")


def facts_here(run_id: str, name: str) -> RunFacts:
    """The run's facts with this environment's package versions and this checkout's git commit."""
    packages = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = git_commit(Path(__file__).resolve().parents[2])
    facts = RunFacts(run_id=run_id, name=name, commit=commit, packages=packages, machine=machine_here())
    return facts.model_copy(update={"kubeflow": kubeflow_run()})


def machine_here() -> dict[str, str]:
    """This machine's CPU and GPUs, and the container image that QUANTGATE_IMAGE names."""
    from quantgate.components.run.machine import gpus_here

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    machine = {
        "cpu": f"{os.cpu_count()} x {model or platform.processor() or platform.machine()}",
        "gpu": ", ".join(f"{gpu.count} x {gpu.name}" for gpu in gpus_here()) or "none",
    }
    image = os.environ.get("QUANTGATE_IMAGE", "")
    return {**machine, "image": image} if image else machine


def user_here() -> str:
    """The account that records runs: MLflow's, else the operating system's; empty for a user id without a name."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):
        return ""


def git_commit(checkout: Path) -> str:
    """The commit checked out in `checkout`; empty if it is not a git checkout, has no commit, or git is missing."""
    if not (checkout / ".git").exists():  # an installed package must not report the repository around its venv
        return ""
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
