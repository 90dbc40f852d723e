"""A version of a registered model with the verdict on its weights, and why it may not serve."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.registry import BASELINE, CANDIDATE, DIGEST, RUN, as_source, model_name, sources_of
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.evidence_check import CheckedRun
from quantgate.components.run.verdicts import Verdict
from quantgate.components.tracking.kubeflow_run import PARENT, is_complete
from quantgate.components.tracking.tags import DECISION, SOURCE_TAG, VARIANT_TAG, WEIGHTS
from quantgate.components.tracking.verification import checked_run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

REFERENCE = "reference"


@dataclass(frozen=True)
class JudgedVersion:
    """A version, and what its run in MLflow says of its weights."""

    version: "ModelVersion"
    evidence: CheckedRun
    verdict: Verdict
    weights: Weights

    def refusal(self, client: "MlflowClient", allowed: Sequence[str]) -> str:
        """Why the version may not serve, empty if it may; `allowed` are the verdicts that may serve."""
        return (
            self.verdict_refusal(allowed)
            or self.source_refusal(client)
            or self.base_model_refusal(client)
            or self.evidence_refusal()
        )

    def verdict_refusal(self, allowed: Sequence[str]) -> str:
        """Why the verdict does not allow the version to serve; empty if it does."""
        version, weights = self.version, self.weights
        if self.verdict.verdict not in (*allowed, REFERENCE):
            return f"its verdict is {self.verdict.verdict}: {self.verdict.sentence} {self.verdict.next_step}".rstrip()
        for tag, digest in ((DIGEST, weights.digest), (BASELINE, weights.baseline_digest)):
            if version.tags.get(tag, "") != digest or not digest:
                return f"its {tag} is {version.tags.get(tag, 'missing')}, but the run with its verdict has {digest}."
        if version.source not in sources_of(weights, version):
            return f"it points at {version.source}, but the weights with this verdict are at {weights.uri}."
        return ""

    def source_refusal(self, client: "MlflowClient") -> str:
        """How the weights that the version points at differ from those with the verdict; empty if they are the same.

        A version that points at a run has that run's weights, whatever its tags say.
        """
        version, weights = self.version, self.weights
        if version.source == as_source(weights):
            return ""
        digest = digest_in_run(client, version)
        if digest == weights.digest:
            return ""
        return (
            f"its source {version.source} has the digest {digest}, but the weights with this verdict have"
            f" {weights.digest}."
        )

    def base_model_refusal(self, client: "MlflowClient") -> str:
        """How the registered model's base model differs from the one that was judged; empty if it is the same."""
        name, decision = self.version.name, self.evidence.decision
        judged = decision.model.source
        recorded = client.get_registered_model(name).tags.get(SOURCE_TAG)
        if recorded != judged:
            whose = recorded or "no recorded base model"
            return f"the registered model {name} is that of {whose}, but {judged} was judged."
        own = model_name(judged, decision.use_case)
        if name != own:
            return f"{judged} was judged for {decision.use_case}, whose registered model is {own}, not {name}."
        return ""

    def evidence_refusal(self) -> str:
        """How the evidence in MLflow differs from that of the verdict; empty if it does not."""
        return f"{'; '.join(self.evidence.mismatches)}." if self.evidence.mismatches else ""


def judged_version(client: "MlflowClient", version: "ModelVersion") -> JudgedVersion:
    """The version with the verdict of the run that its tag names; raises PrerequisiteError without a verdict."""
    child = finished_run(client, version, str(version.tags.get(RUN) or version.run_id or ""))
    parent = finished_run(client, version, child.data.tags.get(PARENT, ""))
    evidence, variant = checked_run(client, parent), child.data.tags.get(VARIANT_TAG, "")
    rows = evidence and (
        next((row for row in evidence.decision.verdicts if row.variant == variant), None),
        next((row for row in evidence.decision.weights if row.variant == variant), None),
    )
    if not evidence or not rows or not rows[0] or not rows[1]:
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} cannot be promoted: its run {parent.info.run_id} has no"
            f" readable {DECISION} with a verdict on {variant or 'it'}. Only a version whose run has a verdict can be"
            " promoted: run the pipeline again."
        )
    return JudgedVersion(version, evidence, rows[0], rows[1])


def finished_run(client: "MlflowClient", version: "ModelVersion", run_id: str) -> "Run":
    """The run; raises PrerequisiteError if it is missing, deleted or unfinished."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise PrerequisiteError(f"Version {version.version} of {version.name} has no run: {error.message}") from error
    if run.info.lifecycle_stage != "active" or not is_complete(run):
        state = "deleted" if run.info.lifecycle_stage != "active" else run.info.status
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} got its verdict in the run {run_id}, which is {state}. Only a"
            " version of a finished run can be promoted."
        )
    return run


def digest_in_run(client: "MlflowClient", version: "ModelVersion") -> str:
    """The digest of the weights of the run that the version points at; raises PrerequisiteError without them."""
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as scratch:
            return Weights.read(client.download_artifacts(str(version.run_id or ""), WEIGHTS, scratch)).digest
    except (MlflowException, OSError, ValueError) as error:
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} cannot be promoted: {WEIGHTS} of its run"
            f" {version.run_id or '(none)'} is unavailable ({type(error).__name__}: {error}). Run the pipeline again."
        ) from error


def version_of(client: "MlflowClient", model: str, version: str) -> "ModelVersion":
    """The version with that number, or the candidate; raises PrerequisiteError if it does not exist."""
    from mlflow.exceptions import MlflowException

    if not version:
        candidate = aliased(client, model, CANDIDATE)
        if not candidate:
            raise PrerequisiteError(f"{model} has no {CANDIDATE}. Run the pipeline, or give a version.")
        return candidate
    try:
        return client.get_model_version(model, version)
    except MlflowException as error:
        raise PrerequisiteError(f"MLflow has no version {version} of {model}: {error.message}") from error


def aliased(client: "MlflowClient", model: str, alias: str) -> "ModelVersion | None":
    """The version that the alias names, None if it names none; raises PrerequisiteError if the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_registered_model(model).aliases.get(alias)
    except MlflowException as error:
        known = ", ".join(registered.name for registered in client.search_registered_models(max_results=20)) or "none"
        raise PrerequisiteError(f"MLflow has no registered model {model}. It has: {known}.") from error
    return client.get_model_version(model, version) if version else None
