"""Runs on Kubeflow Pipelines: upload the pipeline where its content is new, start a run, follow it."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kfp_server_api import ApiException
from kfp_server_api import models as api

from components.errors import PrerequisiteError
from pipelines.cluster import STEPS
from pipelines.kubeflow.connection import ANSWER_S, EXPERIMENT, Kubeflow, NotReachedError

PATIENCE_S = 900.0
"""How long a run is followed without an answer: an API server's restart, a laptop's nap."""
UNDER_WAY = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
EQUALS = 1
"""The filter's number for it."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's reads a compiled pipeline twenty times as fast."""


@dataclass(frozen=True)
class PipelineFile:
    """A file that `quantgate compile` wrote."""

    file: Path
    name: str
    parameters: frozenset[str]
    version: str
    """The pipeline's name with the digest of the file's content."""


@dataclass(frozen=True)
class Version:
    """A version of a pipeline as Kubeflow has it."""

    pipeline_id: str
    version_id: str
    name: str
    uploaded: bool
    """False where Kubeflow had this content already."""

    @property
    def reference(self) -> api.V2beta1PipelineVersionReference:
        """What a run or a schedule says of its pipeline."""
        return api.V2beta1PipelineVersionReference(pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id)


def read_pipeline(file: Path) -> PipelineFile:
    """What the file holds; raises PrerequisiteError where that is no pipeline."""
    try:
        content = file.read_bytes()
        spec = next(iter(yaml.load_all(content, LOADER)))
        name, parameters = spec["pipelineInfo"]["name"], spec["root"]["inputDefinitions"]["parameters"]
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot read {file}: {error.strerror}. Write it with quantgate compile --out {file} --image …"
        ) from None
    except (yaml.YAMLError, StopIteration, KeyError, TypeError):
        raise PrerequisiteError(f"{file} holds no pipeline. Write one with quantgate compile.") from None
    version = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    return PipelineFile(file, name, frozenset(parameters), version)


def upload(kubeflow: Kubeflow, pipeline: PipelineFile) -> Version:
    """The file as a version of its pipeline; it is sent only where Kubeflow does not have its content."""
    with kubeflow.asked_to("keep the pipeline"):
        pipeline_id = pipeline_named(kubeflow, pipeline.name)
        if found := version_named(kubeflow, pipeline_id, pipeline.version):
            return Version(pipeline_id, found, pipeline.version, uploaded=False)
        try:
            made = kubeflow.client.pipeline_uploads.upload_pipeline_version(
                str(pipeline.file), name=pipeline.version, pipelineid=pipeline_id, _request_timeout=ANSWER_S
            )
        except ApiException as refusal:
            found = version_named(kubeflow, pipeline_id, pipeline.version) if refusal.status == 409 else ""
            if not found:
                raise
            return Version(pipeline_id, found, pipeline.version, uploaded=False)  # another was a moment faster
    return Version(pipeline_id, made.pipeline_version_id, pipeline.version, uploaded=True)


def pipeline_named(kubeflow: Kubeflow, name: str) -> str:
    """The pipeline's id; it is made where there is none.

    Not by uploading the file: the version that this makes has the pipeline's name, which tells nothing of its content.
    """
    service = kubeflow.client.pipelines

    def found() -> list[Any]:
        answer = service.pipeline_service_list_pipelines(
            filter=equals(name), _request_timeout=ANSWER_S, **kubeflow.scope
        )
        return named(name, answer.pipelines)

    if here := found():
        return str(here[0].pipeline_id)
    wanted = api.V2beta1Pipeline(display_name=name, **kubeflow.scope)
    try:
        return str(service.pipeline_service_create_pipeline(wanted, _request_timeout=ANSWER_S).pipeline_id)
    except ApiException as refusal:
        here = found() if refusal.status == 409 else []
        if not here:
            raise
        return str(here[0].pipeline_id)


def version_named(kubeflow: Kubeflow, pipeline_id: str, name: str) -> str:
    """The id of the pipeline's version of that name; "" where there is none."""
    answer = kubeflow.client.pipelines.pipeline_service_list_pipeline_versions(
        pipeline_id, filter=equals(name), _request_timeout=ANSWER_S
    )
    found = named(name, answer.pipeline_versions)
    return str(found[0].pipeline_version_id) if found else ""


def experiment_id(kubeflow: Kubeflow) -> str:
    """The id of our experiment, which is made where there is none."""
    service = kubeflow.client.experiments

    def found() -> list[Any]:
        answer = service.experiment_service_list_experiments(
            filter=equals(EXPERIMENT), _request_timeout=ANSWER_S, **kubeflow.scope
        )
        return named(EXPERIMENT, answer.experiments)

    with kubeflow.asked_to("keep the experiment"):
        if here := found():
            return str(here[0].experiment_id)
        wanted = api.V2beta1Experiment(display_name=EXPERIMENT, **kubeflow.scope)
        try:
            return str(service.experiment_service_create_experiment(wanted, _request_timeout=ANSWER_S).experiment_id)
        except ApiException as refusal:
            here = found() if refusal.status == 409 else []
            if not here:
                raise
            return str(here[0].experiment_id)


def start(kubeflow: Kubeflow, version: Version, name: str, parameters: dict[str, object], account: str) -> str:
    """Start a run as that service account; returns its id.

    `name` is this run's alone: one that was started although the answer was lost is found by it, and not started twice.
    """
    run = api.V2beta1Run(
        experiment_id=experiment_id(kubeflow),
        display_name=name,
        pipeline_version_reference=version.reference,
        runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
        service_account=account or None,
    )
    try:
        with kubeflow.asked_to("start the run"):
            return str(kubeflow.client.runs.run_service_create_run(run, _request_timeout=ANSWER_S).run_id)
    except NotReachedError:
        with kubeflow.asked_to("say whether it has started the run"):
            answer = kubeflow.client.runs.run_service_list_runs(
                experiment_id=run.experiment_id, filter=equals(name), _request_timeout=ANSWER_S
            )
        if found := named(name, answer.runs):
            return str(found[0].run_id)
        raise


def look(kubeflow: Kubeflow, run_id: str) -> api.V2beta1Run:
    """How the run stands."""
    with kubeflow.asked_to(f"find the run {run_id}"):
        return kubeflow.client.runs.run_service_get_run(run_id, _request_timeout=ANSWER_S)


def stop(kubeflow: Kubeflow, run_id: str) -> None:
    """Stop the run; what it served is removed when its lease ends."""
    with kubeflow.asked_to(f"stop the run {run_id}"):
        kubeflow.client.runs.run_service_terminate_run(run_id, _request_timeout=ANSWER_S)


def follow(kubeflow: Kubeflow, run_id: str, tell: Callable[[str], None], poll_s: float) -> api.V2beta1Run:
    """Tell each change until the run has ended; a connection that is lost is waited for."""
    told: dict[str, str] = {}
    lost: float | None = None
    while True:
        try:
            run = look(kubeflow, run_id)
        except NotReachedError as error:
            if lost is None:
                lost = time.monotonic()
                tell(f"{error} The run goes on; waiting for an answer.")
            if time.monotonic() > lost + PATIENCE_S:
                raise
        else:
            lost = None
            now = standing(run)
            for what, state in now.items():
                if told.get(what) != state:
                    tell(f"{what}: {state}")
            told = now
            if run.state and run.state not in UNDER_WAY:
                return run
        time.sleep(poll_s)


def standing(run: api.V2beta1Run) -> dict[str, str]:
    """The run's state, and of each of its steps how many variants are how far."""
    states: dict[str, Counter[str]] = {}
    for task in (run.run_details.task_details if run.run_details else None) or ():
        if task.display_name in STEPS and task.state:  # there are tasks of kfp's own beside them
            states.setdefault(task.display_name, Counter())[task.state.lower()] += 1
    return {"run": (run.state or "PENDING").lower()} | {
        name: in_words(states[name]) for name in STEPS if name in states
    }


def in_words(states: "Counter[str]") -> str:
    """`running`, or `2 succeeded, 1 running` of a step that several variants take."""
    if states.total() == 1:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items(), reverse=True))


def why(run: api.V2beta1Run) -> str:
    """What failed in the run, as Kubeflow tells it."""
    tasks = (run.run_details.task_details if run.run_details else None) or ()
    failed = [task for task in tasks if task.state == "FAILED" and task.display_name in STEPS]
    told = [f"{task.display_name}: {task.error.message if task.error else 'failed'}" for task in failed]
    return "; ".join(told) or (run.error.message if run.error and run.error.message else "It does not say why.")


def equals(name: str) -> str:
    """The filter for objects of that name."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})


def named(name: str, found: list[Any] | None) -> list[Any]:
    """Those of that very name."""
    return [each for each in found or () if each.display_name == name]
