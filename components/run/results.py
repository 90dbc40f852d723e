"""Where every file of a run lies, in a folder or below an s3:// prefix: the only place that names the files.

plan.json, decision.json, verdicts.json, report.html, report.md, plots/*.svg     the plan and the outcome
variants/VARIANT/       weights.json, server.json, server.key (only while it runs), flips.json,
                        tiny.json and full.json with their records, speed.json (with `--speed`),
                        flows.jsonl (with `--flows`), judgements.jsonl (with `--judge`),
                        verdict.json (with `--search`)
given/                  copies of the inputs of `resolve`: custom tasks, a suite file's own tasks, IRT parameters,
                        calibration texts, flows
judged/                 the decision of the earlier run that judged this model
rollout/VARIANT/, card/VARIANT/                     what carries the verdict out, and the model card, of each variant
facts.json, tracked.json, registered.json, promotion.json                        what was sent to MLflow
run.json, arguments.json, progress.jsonl, lease, logs/, steps/, store/, mlflow/  only for a run on this machine

Beside the runs, looks/NAME.json is what `quantgate look NAME` has started, and looks/NAME.claims/ its lease.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.location import open_store

A = TypeVar("A", bound=Artifact)

TINY, FULL, AGAIN = "tiny", "full", "again"
"""The stages whose records are stored; `again` is the baseline's second pass."""
PLOTS = ("size.svg", "drops.svg", "limits.svg", "speed.svg", "front.svg")


def run_location(results: str, run_id: str) -> str:
    """The location of one run's results: a folder as it is; of an s3:// prefix the part with the run's id."""
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
        """The path on this machine, whether the file exists or not; raises ValueError for an s3:// location."""
        if "://" in self.location:
            raise ValueError(f"{self} is not on this machine")
        return Path(self.location) / self.name

    def put(self, file: Path) -> str:
        """Store a copy of `file`; returns its uri."""
        return open_store(self.location).put_file(file, self.name)

    def put_text(self, text: str) -> str:
        """Store the text; returns its uri."""
        return open_store(self.location).put_text(text, self.name)

    def write(self, value: Artifact) -> str:
        """Store the value as JSON; returns its uri."""
        return self.put_text(value.model_dump_json(indent=2) + "\n")

    def get(self, file: Path) -> bool:
        """Copy this result to `file`; False when it does not exist."""
        return open_store(self.location).get_file(self.name, file)

    def text(self) -> str | None:
        """The text of this result, or None when it does not exist."""
        return open_store(self.location).get_text(self.name)

    def read(self, kind: type[A]) -> A | None:
        """The value in this result, or None when it does not exist."""
        text = self.text()
        return None if text is None else kind.model_validate_json(text)

    def fetched(self, folder: Path, what_to_do: str) -> Path:
        """A copy in `folder`; raises PrerequisiteError with `what_to_do` when this result does not exist."""
        file = folder / Path(self.name).name
        if not self.get(file):
            raise PrerequisiteError(f"{self.name} is missing from {self.location}: {what_to_do}.")
        return file


def looks_of(results: str, name: str) -> ResultFile:
    """What the looks of that name have started, beside the runs with these results."""
    return ResultFile(results.rstrip("/"), f"looks/{name}.json")


def claims_of_looks(name: str) -> str:
    """The lease of the looks of that name, beside what they have started."""
    return f"looks/{name}.claims"


@dataclass(frozen=True)
class VariantResults:
    """The files of one variant: in a run's results, or in a copied folder."""

    location: str
    prefix: str = ""

    def _file(self, name: str) -> ResultFile:
        return ResultFile(self.location, f"{self.prefix}{name}")

    @property
    def weights(self) -> ResultFile:
        """The variant's Weights."""
        return self._file("weights.json")

    @property
    def server(self) -> ResultFile:
        """The variant's Server."""
        return self._file("server.json")

    @property
    def server_key(self) -> ResultFile:
        """The API key of the variant's server on this machine, while it runs."""
        return self._file("server.key")

    @property
    def flips(self) -> ResultFile:
        """The questions where variant and baseline answer differently: a table as JSON, columns by name."""
        return self._file("flips.json")

    @property
    def load_test(self) -> ResultFile:
        """The LoadTest of the variant's server."""
        return self._file("speed.json")

    @property
    def verdict(self) -> ResultFile:
        """The Verdict with which a search goes on or ends."""
        return self._file("verdict.json")

    @property
    def transcripts(self) -> ResultFile:
        """Every request and answer of the flows, with the checks: a FlowExchange as JSON a line."""
        return self._file("flows.jsonl")

    @property
    def judgements(self) -> ResultFile:
        """The judge's answers about the flows' rubrics, a JSON object a line."""
        return self._file("judgements.jsonl")

    def scores(self, stage: str) -> ResultFile:
        """The Scores of the stage."""
        return self._file(f"{stage}.json")

    def records(self, stage: str) -> ResultFile:
        """The per-item records of the stage, as Parquet."""
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
        """The folder; raises ValueError when the results are in a bucket."""
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

    def load_test(self, variant: str) -> ResultFile:
        """The LoadTest of the variant's server."""
        return self.variant(variant).load_test

    def flips(self, variant: str) -> ResultFile:
        """The questions where variant and baseline answer differently."""
        return self.variant(variant).flips

    def local_servers(self) -> list[Path]:
        """The server.json files of a run on this machine."""
        return sorted(self.folder.glob("variants/*/server.json"))

    @property
    def plan(self) -> ResultFile:
        """The EvaluationPlan."""
        return self._file("plan.json")

    @property
    def decision(self) -> ResultFile:
        """The Decision."""
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
        """The plot `name`, one of PLOTS."""
        return self._file(f"plots/{name}")

    @property
    def report_files(self) -> tuple[ResultFile, ...]:
        """The report, the verdicts and the plots; a run may lack some of the plots."""
        return self.report, self.report_markdown, self.verdicts, *(self.plot(name) for name in PLOTS)

    def rollout(self, variant: str, name: str) -> ResultFile:
        """One file of what carries the variant's verdict out; gitops_files.py names them."""
        return self._file(f"rollout/{variant}/{name}")

    def card(self, variant: str, name: str) -> ResultFile:
        """One file of the variant's model card; model_card.py names them."""
        return self._file(f"card/{variant}/{name}")

    def custom_set(self, name: str) -> str:
        """The folder or s3:// prefix with the copy of a custom task."""
        return f"{self.location}/given/custom/{name}"

    def own_tasks(self, suite: str) -> str:
        """The folder or s3:// prefix with the copy of the tasks that a suite file includes."""
        return f"{self.location}/given/tasks/{suite}"

    def given(self, name: str) -> ResultFile:
        """The copy of an input file of `resolve`."""
        return self._file(f"given/{name}")

    @property
    def calibration_texts(self) -> ResultFile:
        """The calibration texts, a JSON object a line: `text`, and whether it is `templated`, with special tokens."""
        return self.calibration_file(0)

    def calibration_file(self, number: int) -> ResultFile:
        """The calibration texts of that number among the run's sets."""
        return self.given(f"calibration-{number}.jsonl" if number else "calibration.jsonl")

    @property
    def flows(self) -> ResultFile:
        """The FlowSet of the run."""
        return self.given("flows.json")

    @property
    def earlier_decision(self) -> ResultFile:
        """The Decision of the earlier run that judged the model."""
        return self._file("judged/decision.json")

    @property
    def earlier_tracked(self) -> ResultFile:
        """The TrackedRun of that earlier run: where it is in MLflow."""
        return self._file("judged/tracked.json")

    @property
    def facts(self) -> ResultFile:
        """The RunFacts."""
        return self._file("facts.json")

    @property
    def tracked(self) -> ResultFile:
        """The TrackedRun."""
        return self._file("tracked.json")

    @property
    def registered(self) -> ResultFile:
        """The Registered."""
        return self._file("registered.json")

    @property
    def promotion(self) -> ResultFile:
        """The Promotion."""
        return self._file("promotion.json")

    # Only for a run on this machine.

    @property
    def state(self) -> Path:
        """The RunState: running, finished, failed or interrupted."""
        return self.folder / "run.json"

    @property
    def arguments(self) -> Path:
        """The pipeline's arguments."""
        return self.folder / "arguments.json"

    @property
    def progress(self) -> Path:
        """The progress events, one JSON line each."""
        return self.folder / "progress.jsonl"

    @property
    def lease(self) -> Path:
        """The file that the run keeps locked until it ends."""
        return self.folder / "lease"

    def log(self, name: str) -> Path:
        """The log of a process: `pipeline`, `vllm-VARIANT`, `quantize-VARIANT`."""
        return self.folder / "logs" / f"{name}.log"

    @property
    def steps(self) -> Path:
        """The folder of kfp's artifacts."""
        return self.folder / "steps"

    @property
    def store(self) -> Path:
        """The default store of the weights."""
        return self.folder / "store"

    @property
    def mlflow(self) -> Path:
        """The folder of MLflow's store for a run without a tracking server."""
        return self.folder / "mlflow"

    def is_for_runs(self) -> bool:
        """Whether a run may use the folder: it is empty, or holds an earlier run."""
        return self.state.exists() or {file.name for file in self.folder.iterdir()} <= {self.lease.name}

    def clear(self) -> None:
        """Remove the outcome of an earlier run; its weights and its MLflow store stay."""
        for file in self._outcomes():
            file.path.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)
        for name in ("variants", "plots", "rollout", "card", "given", "judged", "logs", "steps"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _outcomes(self) -> Iterator[ResultFile]:
        yield from (self.plan, self.decision, self.facts, self.tracked, self.registered, self.promotion)
        yield from self.report_files
