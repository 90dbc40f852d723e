"""What MLflow is told of a pipeline run beside the gate's decision: its identity, its versions and its files."""

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from components.artifacts import Artifact

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
    """One pipeline run, as a reader of MLflow wants to find it again."""

    run_id: str
    """The pipeline's own id; tracking the same id again updates what is there."""
    name: str
    """What MLflow shows in its list of runs."""
    started_at: float = 0.0
    """Unix time in seconds; 0: the moment of recording."""
    commit: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)
    """Further parameters of the run that a reader compares, e.g. the serving engine."""


@dataclass(frozen=True)
class RunFiles:
    """The files to keep beside the numbers; every one must exist."""

    report: tuple[Path, ...] = ()
    """The pipeline run's own: report.html, report.md, verdicts.json."""
    variants: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Further files of a variant. Its records, where they are a local file, are kept without being named here."""

    def check(self) -> None:
        """Raise FileNotFoundError for the first file that is not there."""
        for path in (*self.report, *(path for paths in self.variants.values() for path in paths)):
            if not path.is_file():
                raise FileNotFoundError(f"The file to track does not exist: {path}")


def facts_here(run_id: str, name: str) -> RunFacts:
    """The run's facts with this environment's package versions and this checkout's git commit."""
    packages = {"python": platform.python_version()}
    for name_of_package in PACKAGES:
        try:
            packages[name_of_package] = version(name_of_package)
        except PackageNotFoundError:
            continue
    return RunFacts(run_id=run_id, name=name, commit=git_commit(Path(__file__).parents[2]), packages=packages)


def git_commit(checkout: Path) -> str:
    """The commit checked out in `checkout`; empty where that is no git checkout, has no commit, or git is missing."""
    if not (checkout / ".git").exists():  # an installed package must not report the repository around its venv
        return ""
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
