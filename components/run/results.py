"""Where every file of a run lies, in a folder or below an s3:// prefix: the one place that names them.

plan.json, decision.json, verdicts.json, report.html, report.md, plots/*.svg     what the run says
variants/VARIANT/       weights.json, server.json, tiny.json and full.json with their records, flips.json
given/                  copies of what `resolve` was given: custom test sets, parameters
judged/                 the decision of the run that judged this model before
facts.json, tracked.json, registered.json, promotion.json                        what MLflow was sent
run.json, arguments.json, progress.jsonl, lease, logs/, steps/, store/, mlflow/  only of a run on this machine
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from components.errors import PrerequisiteError
from components.storage.artifact import Artifact
from components.storage.location import open_store

A = TypeVar("A", bound=Artifact)

TINY, FULL, AGAIN = "tiny", "full", "again"
"""The stages whose records are kept; the last is the baseline's second pass."""
PLOTS = ("size.svg", "drops.svg", "limits.svg")


def of_run(results: str, run_id: str) -> str:
    """Where a run keeps its results: in the folder itself, of a bucket below the prefix under the run's own id."""
    return f"{results.rstrip('/')}/{run_id}" if "://" in results else results


@dataclass(frozen=True)
class ResultFile:
    """One file of a run's results."""

    location: str
    """The folder or the s3:// prefix that the name is relative to."""
    name: str

    def __str__(self) -> str:
        return f"{self.location}/{self.name}"

    @property
    def path(self) -> Path:
        """The file on this machine, whether it exists or not."""
        if "://" in self.location:
            raise ValueError(f"{self} is not on this machine")
        return Path(self.location) / self.name

    def put(self, file: Path) -> str:
        """The uri of a copy of the file."""
        return open_store(self.location).put_file(file, self.name)

    def put_text(self, text: str) -> str:
        """The uri of the text."""
        return open_store(self.location).put_text(text, self.name)

    def write(self, value: Artifact) -> str:
        """The uri of the value as JSON."""
        return self.put_text(value.model_dump_json(indent=2) + "\n")

    def get(self, file: Path) -> bool:
        """Copy it to `file`; False when the results do not have it."""
        return open_store(self.location).get_file(self.name, file)

    def text(self) -> str | None:
        """Its text, or None."""
        return open_store(self.location).get_text(self.name)

    def read(self, kind: type[A]) -> A | None:
        """The value that it holds, or None."""
        text = self.text()
        return None if text is None else kind.model_validate_json(text)

    def fetched(self, folder: Path, what_to_do: str) -> Path:
        """A copy in `folder`; raises PrerequisiteError, with what to do, when the results do not have it."""
        file = folder / Path(self.name).name
        if not self.get(file):
            raise PrerequisiteError(f"{self.name} is missing from {self.location}: {what_to_do}.")
        return file


@dataclass(frozen=True)
class VariantResults:
    """The files of one variant: in a run's results, or in a folder that was copied from there."""

    location: str
    prefix: str = ""

    def _file(self, name: str) -> ResultFile:
        return ResultFile(self.location, f"{self.prefix}{name}")

    @property
    def weights(self) -> ResultFile:
        """Weights."""
        return self._file("weights.json")

    @property
    def server(self) -> ResultFile:
        """Server."""
        return self._file("server.json")

    @property
    def flips(self) -> ResultFile:
        """The questions that the variant answers otherwise than the baseline: a table as JSON, columns by name."""
        return self._file("flips.json")

    def scores(self, stage: str) -> ResultFile:
        """Scores of the stage."""
        return self._file(f"{stage}.json")

    def records(self, stage: str) -> ResultFile:
        """Per-item records of the stage, as Parquet."""
        return self._file(f"{stage}.parquet")


@dataclass(frozen=True)
class RunResults:
    """The files of a run."""

    location: str
    """A folder, or s3://BUCKET/PREFIX with the run's own id."""

    @property
    def is_local(self) -> bool:
        """Whether the results are in a folder of this machine."""
        return "://" not in self.location

    @property
    def folder(self) -> Path:
        """The folder; raises ValueError where the results are in a bucket."""
        return self._file("").path

    def _file(self, name: str) -> ResultFile:
        return ResultFile(self.location, name)

    def variant(self, name: str) -> VariantResults:
        """The files of one variant."""
        return VariantResults(self.location, f"variants/{name}/")

    def weights(self, variant: str) -> ResultFile:
        """The variant's Weights."""
        return self.variant(variant).weights

    def server(self, variant: str) -> ResultFile:
        """The variant's Server."""
        return self.variant(variant).server

    def scores(self, variant: str, stage: str) -> ResultFile:
        """The variant's Scores in the stage."""
        return self.variant(variant).scores(stage)

    def records(self, variant: str, stage: str) -> ResultFile:
        """The variant's per-item records of the stage."""
        return self.variant(variant).records(stage)

    def flips(self, variant: str) -> ResultFile:
        """The questions that the variant answers otherwise than the baseline."""
        return self.variant(variant).flips

    def local_servers(self) -> list[Path]:
        """The files of all servers that a run on this machine has started."""
        return sorted(self.folder.glob("variants/*/server.json"))

    @property
    def plan(self) -> ResultFile:
        """EvaluationPlan."""
        return self._file("plan.json")

    @property
    def decision(self) -> ResultFile:
        """Decision."""
        return self._file("decision.json")

    @property
    def verdicts(self) -> ResultFile:
        """The verdicts for scripts, as JSON."""
        return self._file("verdicts.json")

    @property
    def report(self) -> ResultFile:
        """The report as HTML."""
        return self._file("report.html")

    @property
    def report_markdown(self) -> ResultFile:
        """The report as Markdown."""
        return self._file("report.md")

    def plot(self, name: str) -> ResultFile:
        """One of PLOTS."""
        return self._file(f"plots/{name}")

    @property
    def report_files(self) -> tuple[ResultFile, ...]:
        """The report, the verdicts and the plots; a run may lack some of the plots."""
        return self.report, self.report_markdown, self.verdicts, *(self.plot(name) for name in PLOTS)

    def custom_set(self, name: str) -> str:
        """The folder or s3:// prefix of the copy of a custom test set."""
        return f"{self.location}/given/custom/{name}"

    def given(self, name: str) -> ResultFile:
        """The copy of a file that `resolve` was given."""
        return self._file(f"given/{name}")

    @property
    def earlier_decision(self) -> ResultFile:
        """The Decision of the run that judged the model before."""
        return self._file("judged/decision.json")

    @property
    def earlier_tracked(self) -> ResultFile:
        """Where MLflow keeps that run: TrackedRun."""
        return self._file("judged/tracked.json")

    @property
    def facts(self) -> ResultFile:
        """RunFacts."""
        return self._file("facts.json")

    @property
    def tracked(self) -> ResultFile:
        """TrackedRun."""
        return self._file("tracked.json")

    @property
    def registered(self) -> ResultFile:
        """Registered."""
        return self._file("registered.json")

    @property
    def promotion(self) -> ResultFile:
        """Promotion."""
        return self._file("promotion.json")

    # What only a run on this machine has.

    @property
    def state(self) -> Path:
        """How the run stands: RunState."""
        return self.folder / "run.json"

    @property
    def arguments(self) -> Path:
        """What the pipeline was called with."""
        return self.folder / "arguments.json"

    @property
    def progress(self) -> Path:
        """A line an event."""
        return self.folder / "progress.jsonl"

    @property
    def lease(self) -> Path:
        """The file that the run holds locked as long as it lives."""
        return self.folder / "lease"

    def log(self, name: str) -> Path:
        """The log of a process: `pipeline`, `vllm-VARIANT`, `quantize-VARIANT`."""
        return self.folder / "logs" / f"{name}.log"

    @property
    def steps(self) -> Path:
        """The folder of kfp's own artifacts."""
        return self.folder / "steps"

    @property
    def store(self) -> Path:
        """The folder of weights, unless the run has another store."""
        return self.folder / "store"

    @property
    def mlflow(self) -> Path:
        """The folder of MLflow's store, unless the run has a tracking server."""
        return self.folder / "mlflow"

    def is_for_runs(self) -> bool:
        """Whether a run may have the folder: an earlier one has left its state there, or nothing has."""
        return self.state.exists() or {file.name for file in self.folder.iterdir()} <= {self.lease.name}

    def clear(self) -> None:
        """Remove what an earlier run has left as its outcome; its weights and its MLflow store stay."""
        for file in self._outcomes():
            file.path.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)
        for name in ("variants", "plots", "given", "judged", "logs", "steps"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _outcomes(self) -> Iterator[ResultFile]:
        yield from (self.plan, self.decision, self.facts, self.tracked, self.registered, self.promotion)
        yield from self.report_files
