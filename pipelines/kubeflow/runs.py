"""Runs on Kubeflow Pipelines: upload the pipeline if its content is new, start a run, follow it."""

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

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.cluster import STEPS
from quantgate.pipelines.kubeflow.connection import ANSWER_S, EXPERIMENT, Kubeflow, NotReachedError

PATIENCE_S = 900.0
"""How long to follow a run without an answer, e.g. while an API server restarts or a laptop sleeps."""
UNDER_WAY = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
TAG_LENGTH = 63
"""The longest value of a tag."""
EQUALS = 1
"""The filter's number for this operation."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader reads a compiled pipeline twenty times as fast."""


@dataclass(frozen=True)
class PipelineFile:
    """A file that `quantgate compile` wrote."""

    file: Path
    name: str
    parameters: frozenset[str]
    version: str
    """The pipeline's name with the digest of the file's content."""
    image: str
    """The image of most steps."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the pipeline's version in Kubeflow, which are cut to the length that it takes."""
        return {"quantgate-image": self.image.rpartition("/")[2][:TAG_LENGTH]}


@dataclass(frozen=True)
class Version:
    """A version of a pipeline in Kubeflow."""

    pipeline_id: str
    version_id: str
    name: str
    uploaded: bool
    """False when Kubeflow already had this content."""

    @property
    def reference(self) -> api.V2beta1PipelineVersionReference:
        """The reference that a run or a schedule has to its pipeline."""
        return api.V2beta1PipelineVersionReference(pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id)


def read_pipeline(file: Path) -> PipelineFile:
    """The pipeline in the file; raises PrerequisiteError when the file is not a pipeline."""
    try:
        content = file.read_bytes()
        spec = next(iter(yaml.load_all(content, LOADER)))
        name, parameters = spec["pipelineInfo"]["name"], spec["root"]["inputDefinitions"]["parameters"]
        executors = spec["deploymentSpec"]["executors"].values()
        ((image, _),) = Counter(executor["container"]["image"] for executor in executors).most_common(1)
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot read {file}: {error.strerror}. Write it with quantgate compile --out {file} --image …"
        ) from None
    except (yaml.YAMLError, StopIteration, KeyError, TypeError, ValueError, AttributeError):
        raise PrerequisiteError(f"{file} is not a pipeline. Write one with quantgate compile.") from None
    version = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    return PipelineFile(file, name, frozenset(parameters), version, image)


def upload(kubeflow: Kubeflow, pipeline: PipelineFile) -> Version:
    """The file as a version of its pipeline; uploaded only if Kubeflow lacks its content."""
    with kubeflow.request("store the pipeline"):
        pipeline_id = pipeline_named(kubeflow, pipeline.name)
        if version_id := version_named(kubeflow, pipeline_id, pipeline.version):
            return Version(pipeline_id, version_id, pipeline.version, uploaded=False)
        try:
            version = kubeflow.client.pipeline_uploads.upload_pipeline_version(
                str(pipeline.file),
                name=pipeline.version,
                pipelineid=pipeline_id,
                tags=json.dumps(pipeline.tags),
                _request_timeout=ANSWER_S,
            )
        except ApiException as refusal:
            version_id = version_named(kubeflow, pipeline_id, pipeline.version) if refusal.status == 409 else ""
            if not version_id:
                raise
            return Version(pipeline_id, version_id, pipeline.version, uploaded=False)  # another client was faster
    return Version(pipeline_id, version.pipeline_version_id, pipeline.version, uploaded=True)


def pipeline_named(kubeflow: Kubeflow, name: str) -> str:
    """The id of the pipeline of that name, which is created if it is missing.

    The file is not uploaded for this: the version of such an upload would get the pipeline's name, which does not
    identify the content.
    """
    service = kubeflow.client.pipelines

    def list_pipelines() -> list[Any]:
        answer = service.pipeline_service_list_pipelines(
            filter=equals(name), _request_timeout=ANSWER_S, **kubeflow.scope
        )
        return named(name, answer.pipelines)

    if pipelines := list_pipelines():
        return str(pipelines[0].pipeline_id)
    pipeline = api.V2beta1Pipeline(display_name=name, **kubeflow.scope)
    try:
        return str(service.pipeline_service_create_pipeline(pipeline, _request_timeout=ANSWER_S).pipeline_id)
    except ApiException as refusal:
        pipelines = list_pipelines() if refusal.status == 409 else []
        if not pipelines:
            raise
        return str(pipelines[0].pipeline_id)


def version_named(kubeflow: Kubeflow, pipeline_id: str, name: str) -> str:
    """The id of the pipeline's version of that name; "" when it is missing."""
    answer = kubeflow.client.pipelines.pipeline_service_list_pipeline_versions(
        pipeline_id, filter=equals(name), _request_timeout=ANSWER_S
    )
    versions = named(name, answer.pipeline_versions)
    return str(versions[0].pipeline_version_id) if versions else ""


def experiment_id(kubeflow: Kubeflow) -> str:
    """The id of the experiment EXPERIMENT, which is created if it is missing."""
    service = kubeflow.client.experiments

    def list_experiments() -> list[Any]:
        answer = service.experiment_service_list_experiments(
            filter=equals(EXPERIMENT), _request_timeout=ANSWER_S, **kubeflow.scope
        )
        return named(EXPERIMENT, answer.experiments)

    with kubeflow.request("store the experiment"):
        if experiments := list_experiments():
            return str(experiments[0].experiment_id)
        experiment = api.V2beta1Experiment(display_name=EXPERIMENT, **kubeflow.scope)
        try:
            answer = service.experiment_service_create_experiment(experiment, _request_timeout=ANSWER_S)
            return str(answer.experiment_id)
        except ApiException as refusal:
            experiments = list_experiments() if refusal.status == 409 else []
            if not experiments:
                raise
            return str(experiments[0].experiment_id)


def start(kubeflow: Kubeflow, version: Version, name: str, parameters: dict[str, object], account: str) -> str:
    """Start a run as that service account; returns the run's id.

    `name` is unique: if Kubeflow starts the run and the answer is lost, the run is found by its name and not started
    twice.
    """
    run = api.V2beta1Run(
        experiment_id=experiment_id(kubeflow),
        display_name=name,
        pipeline_version_reference=version.reference,
        runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
        service_account=account or None,
    )
    try:
        with kubeflow.request("start the run"):
            return str(kubeflow.client.runs.run_service_create_run(run, _request_timeout=ANSWER_S).run_id)
    except NotReachedError:
        if started := run_named(kubeflow, name):
            return started
        raise


def run_named(kubeflow: Kubeflow, name: str) -> str:
    """The id of the run of that name; "" when Kubeflow has none."""
    experiment = experiment_id(kubeflow)
    with kubeflow.request("say whether it has started the run"):
        answer = kubeflow.client.runs.run_service_list_runs(
            experiment_id=experiment, filter=equals(name), _request_timeout=ANSWER_S
        )
    runs = named(name, answer.runs)
    return str(runs[0].run_id) if runs else ""


def get_run(kubeflow: Kubeflow, run_id: str) -> api.V2beta1Run:
    """The run with its current state."""
    with kubeflow.request(f"find the run {run_id}"):
        return kubeflow.client.runs.run_service_get_run(run_id, _request_timeout=ANSWER_S)


def runs_under_way(kubeflow: Kubeflow, experiment: str) -> list[Any]:
    """The experiment's runs that have not ended."""
    under_way: list[Any] = []
    page = ""
    with kubeflow.request("list the runs"):
        while True:
            answer = kubeflow.client.runs.run_service_list_runs(
                experiment_id=experiment, page_token=page, page_size=200, _request_timeout=ANSWER_S
            )
            under_way += [run for run in answer.runs or () if not run.state or run.state in UNDER_WAY]
            page = answer.next_page_token or ""
            if not page:
                return under_way


def stop(kubeflow: Kubeflow, run_id: str) -> None:
    """Stop the run; its servers are removed when their lease ends."""
    with kubeflow.request(f"stop the run {run_id}"):
        kubeflow.client.runs.run_service_terminate_run(run_id, _request_timeout=ANSWER_S)


def follow(
    kubeflow: Kubeflow,
    run_id: str,
    look: Callable[[api.V2beta1Run], None],
    print_line: Callable[[str], None],
    poll_s: float,
) -> api.V2beta1Run:
    """Call `look` with the run until it has ended, and print its states; waits up to PATIENCE_S for an answer."""
    printed = ""
    lost_at: float | None = None
    while True:
        try:
            run = get_run(kubeflow, run_id)
            look(run)
        except NotReachedError as error:
            if lost_at is None:
                lost_at = time.monotonic()
                print_line(f"{error} The run continues; waiting for an answer.")
            if time.monotonic() > lost_at + PATIENCE_S:
                raise
        else:
            lost_at = None
            state = (run.state or "PENDING").lower()
            if state != printed:
                print_line(f"run: {state}")
            printed = state
            if run.state and run.state not in UNDER_WAY:
                return run
        time.sleep(poll_s)


def failed_on_its_verdict(run: api.V2beta1Run) -> bool:
    """Whether all that failed is the last step, which fails a complete run because of its verdicts."""
    tasks = (run.run_details.task_details if run.run_details else None) or ()
    return {task.display_name for task in tasks if task.state == "FAILED" and task.display_name in STEPS} == {
        "conclude"
    }


def failed_steps(run: api.V2beta1Run) -> str:
    """The names of the failed steps; Kubeflow's list of tasks has no reasons."""
    tasks = (run.run_details.task_details if run.run_details else None) or ()
    failed = dict.fromkeys(task.display_name for task in tasks if task.state == "FAILED" and task.display_name in STEPS)
    return ", ".join(failed)


def equals(name: str) -> str:
    """The filter for objects of that name."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})


def named(name: str, objects: list[Any] | None) -> list[Any]:
    """The objects with exactly that name."""
    return [item for item in objects or () if item.display_name == name]
