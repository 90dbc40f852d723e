"""Helpers for tests of the Kubeflow commands: a stand-in, a compiled pipeline, and functions that run the commands."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pytest
import typer
from kfp import compiler
from typer.testing import CliRunner

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.progress import DONE, MARK, RUNNING, Event
from quantgate.pipelines.cli import cluster_commands, look_commands
from quantgate.pipelines.cluster import Cluster
from quantgate.pipelines.exits import USER_ERROR
from quantgate.pipelines.kubeflow.compile import write_pipeline
from quantgate.pipelines.ship import ship
from tests.support.kfp_server import JSON, State, kubeflow_pipelines

QUICK = ("--poll", "0.01")
RESULTS = ("--store", "s3://bucket/store", "--results", "s3://bucket/results")


Result = TypeVar("Result")


def on_a_short_stack(work: Callable[[], Result]) -> Result:
    """Run the work in a thread and return its result: kfp reads the source of every caller at each setting of a task.

    Under pytest there are some sixty callers, and a compilation takes thirty times as long.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def compiled(file: Path, cluster: Cluster | None = None) -> Path:
    """Compile the pipeline into the file, fitted to the cluster if there is one; returns the file."""
    on_a_short_stack(lambda: write_pipeline(cluster, file) if cluster else compiler.Compiler().compile(ship, str(file)))
    return file


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `quantgate compile` writes."""
    return compiled(tmp_path_factory.mktemp("compiled") / "pipeline.yaml", Cluster())


@pytest.fixture
def kubeflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    """A Kubeflow Pipelines whose runs ship int8; this machine has no keys of the S3 with their results."""
    with kubeflow_pipelines() as state:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setattr("quantgate.components.storage.bucket_lease.SETTLES_S", 0.0)  # one look at a time
        decides(state, "ship")
        yield state


def decides(state: State, *verdicts: str) -> None:
    """Give the runs these verdicts."""
    rows = [{"variant": "bf16", "verdict": "reference", "sentence": "It serves."}]
    rows += [{"variant": f"v{at}", "verdict": verdict, "sentence": "So it is."} for at, verdict in enumerate(verdicts)]

    judged = tuple((row["variant"], row["verdict"], row["sentence"]) for row in rows[1:])
    state.logs["report"] = logged(Event(0, "report", "", RUNNING), Event(0, "report", "", DONE, verdicts=judged))

    def leave(run: JSON) -> None:
        place = run["runtime_config"]["parameters"]["settings"]["results"].removeprefix("s3:/")
        state.s3[f"{place}/{run['run_id']}/verdicts.json"] = json.dumps(rows)

    state.on_run = leave


def logged(*events: Event) -> str:
    """The log of a step with these events."""
    return "".join(f"{event.name}: {event.state}\n{MARK}{json.dumps(asdict(event))}\n" for event in events)


class Answer:
    """A command's exit status, stdout and stderr."""

    def __init__(self, *arguments: str) -> None:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command("submit")(cluster_commands.submit)
        app.command("follow")(cluster_commands.follow)
        app.command("schedule")(cluster_commands.schedule)
        app.command("look")(look_commands.look)
        done = CliRunner().invoke(app, list(arguments))
        explained = isinstance(done.exception, PrerequisiteError)
        if done.exception and not explained and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.status = USER_ERROR if explained else done.exit_code
        self.out = done.stdout
        self.err = str(done.exception) if explained else done.stderr


def submitted(state: State, pipeline: Path, *more: str) -> Answer:
    return Answer("submit", "--host", state.host, "--pipeline", str(pipeline), *RESULTS, *QUICK, *more)


def scheduled(state: State, pipeline: Path, *more: str) -> Answer:
    return Answer("schedule", "--host", state.host, "--pipeline", str(pipeline), *RESULTS, *more)


def uploads(state: State) -> int:
    return state.requests.count("POST pipelines/upload_version")
