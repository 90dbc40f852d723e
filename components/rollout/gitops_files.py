"""All files of a rollout, by their names in its folder.

    README.md, rollout.json              the steps, what to watch, and how to take it back; the plan for scripts
    inference-service/STEP/              service.yaml and kustomization.yaml, complete for the step; so is `rollback`
    llm-inference-service/STEP/          the same with an LLMInferenceService for each of the two models
    metrics/                             the alerts
    Containerfile, SHA256SUMS            where the weights are to be an OCI image

A verdict that allows no rollout has README.md and rollout.json only, with the reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.change import percent
from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE, JSON, LLM_INFERENCE_SERVICE, ObjectKind
from quantgate.components.policies.policy import UseCase
from quantgate.components.rollout.kserve_services import Traffic, traffic_of
from quantgate.components.rollout.live_metrics import METRICS, prometheus_rule, requests_query, selectors
from quantgate.components.rollout.modelcar import BASE, MODEL, SUMS, checksums, containerfile
from quantgate.components.rollout.rollout_plan import ROLLBACK, Destination, RolloutPlan, plan_rollout, weights_of
from quantgate.components.rollout.storage_address import OCI, check_reachable
from quantgate.components.run.verdicts import Decision
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.storage.page_templates import templates_of

README, PLAN, SERVICE = "README.md", "rollout.json", "service.yaml"
FOLDERS: Mapping[ObjectKind, str] = {
    INFERENCE_SERVICE: "inference-service",
    LLM_INFERENCE_SERVICE: "llm-inference-service",
}


@dataclass(frozen=True)
class Rollout:
    """A rollout that is ready to be written or applied."""

    decision: Decision
    plan: RolloutPlan
    traffic: Traffic
    namespace: str = ""

    def objects(self, kind: ObjectKind, step: int) -> list[JSON]:
        """The objects of the step of that number; 0 is the rollback."""
        return self.traffic.objects(kind, self.plan.step(step).percent if step else 0)

    def files(self) -> dict[str, str]:
        """The text of each file by its name."""
        alpha = self.decision.limits.alpha
        files = plan_files(self.plan, self.decision.limits, self.traffic)
        for kind, folder in FOLDERS.items():
            for name, share in {**{step.name: step.percent for step in self.plan.steps}, ROLLBACK: 0}.items():
                services = yaml_text(*self.traffic.objects(kind, share))
                files |= kustomization(f"{folder}/{name}", {SERVICE: services}, self.namespace)
        alerts = yaml_text(prometheus_rule(self.traffic, alpha))
        files |= kustomization("metrics", {"alerts.yaml": alerts}, self.namespace)
        return files | dict(modelcar_files(self.decision, self.traffic))


def prepared(decision: Decision, plan: RolloutPlan, destination: Destination, settings: ServingSettings) -> Rollout:
    """The rollout of a plan with steps; raises PrerequisiteError if KServe cannot load the weights."""
    traffic = traffic_of(decision, plan, destination, settings)
    for option, release in (("--storage-uri", traffic.variant), ("--replaced-uri", traffic.stable)):
        try:
            check_reachable(release.uri)
        except PrerequisiteError as error:
            raise PrerequisiteError(f"{error} Or give the address of a copy of {release.variant}: {option}.") from error
    return Rollout(decision, plan, traffic, destination.namespace)


def plan_files(plan: RolloutPlan, limits: UseCase, traffic: Traffic | None = None) -> dict[str, str]:
    """The plan for people and for scripts; without `traffic` it has no files beside it."""
    return {
        README: readme(plan, limits, traffic),
        PLAN: plan.model_dump_json(indent=2) + "\n",
    }


def written_plan(decision: Decision, variant: str, settings: ServingSettings) -> dict[str, str]:
    """The files for a run's own results: only the plan if it has no steps, or KServe cannot load the weights."""
    plan = plan_rollout(decision, variant, Destination())
    if not plan.steps:
        return plan_files(plan, decision.limits)
    try:
        return prepared(decision, plan, Destination(), settings).files()
    except PrerequisiteError as error:
        return plan_files(plan.model_copy(update={"steps": (), "refusal": str(error)}), decision.limits)


def kustomization(folder: str, resources: Mapping[str, str], namespace: str) -> dict[str, str]:
    """The resources in the folder, with the kustomization that lists them."""
    body: JSON = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **({"namespace": namespace} if namespace else {}),
        "resources": list(resources),
    }
    files = {"kustomization.yaml": yaml_text(body), **resources}
    return {f"{folder}/{name}": text for name, text in files.items()}


def modelcar_files(decision: Decision, traffic: Traffic) -> Iterator[tuple[str, str]]:
    """The files that make the variant's weights an image, if an image is their address for KServe.

    Raises PrerequisiteError if the store does not have the sha256 values of exactly these weights.
    """
    if not traffic.variant.uri.startswith(OCI):
        return
    weights = weights_of(decision, traffic.variant.variant)
    sums = checksums(weights.uri, weights.digest)
    if sums is None:
        raise PrerequisiteError(
            f"The store at {weights.uri} does not have the weights that were judged, so no image can be made of them."
            " Check the store, or run the pipeline again."
        )
    yield "Containerfile", containerfile(traffic.variant)
    yield SUMS, sums


def readme(plan: RolloutPlan, limits: UseCase, traffic: Traffic | None) -> str:
    """The rollout for the person who carries it out, as Markdown."""
    environment = templates_of("rollout", autoescape=False)
    variant, stable = selectors(traffic) if traffic else ("", "")
    test, unit = plan.live_test, "%" if limits.relative else "points"
    return environment.get_template("rollout.md.j2").render(
        plan=plan,
        traffic=traffic,
        folders=list(FOLDERS.values()),
        metrics=METRICS,
        selected={plan.variant: variant, plan.replaces: stable},
        requests=requests_query(variant),
        margin=limits.describe_limit(test.margin) if test else "",
        expected=percent(test.expected, test.margin, unit=unit) if test else "",
        is_image=bool(traffic and traffic.variant.uri.startswith(OCI)),
        image={"base": BASE, "model": MODEL, "sums": SUMS},
    )


def yaml_text(*objects: JSON) -> str:
    """The objects as YAML documents, in the order of their keys."""
    return str(yaml.safe_dump_all(objects, sort_keys=False))
