"""The KServe objects that give a variant a share of the traffic: InferenceServices and LLMInferenceServices.

    InferenceService        standard   spec.predictor is the model that serves, spec.canary the variant with its share
                            knative    spec.predictor is the variant, `canaryTrafficPercent` its share; the model that
                                       served is the revision before
    LLMInferenceService     one for each model, in one routing group; their weights are percents

A predictor has the name of its weights: KServe names its Deployment by it. So the canary that takes all traffic keeps
its pods, and so does the model that serves while the canary comes and goes. Facts are annotations of the predictor, not
of the service: KServe copies those of the service to the pods of both.
"""

import hashlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE, JSON, LLM_INFERENCE_SERVICE, ObjectKind
from quantgate.components.rollout.rollout_plan import (
    ALL,
    KNATIVE,
    Destination,
    RolloutPlan,
    dns_label,
    verdict_on,
    weights_of,
)
from quantgate.components.rollout.storage_address import annotations
from quantgate.components.run.verdicts import Decision
from quantgate.components.servers import vllm_pod
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.servers.vllm_options import CPU_OPTIONS

LONGEST_VARIANT, DIGITS = 12, 8
LLM_CONTAINER, LLM_OPTIONS = "main", "VLLM_ADDITIONAL_ARGS"
"""The container of an LLMInferenceService, and its variable with more options of vLLM's."""


@dataclass(frozen=True)
class Release:
    """One variant's weights, as KServe serves them."""

    variant: str
    digest: str
    uri: str
    options: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def id(self) -> str:
        """The variant and the beginning of a digest, as a DNS label: other weights or options have another one."""
        served = " ".join([self.digest, *self.options])  # `.kv-fp8` shares its row's weights
        digest = hashlib.sha256(served.encode()).hexdigest() if self.options else self.digest
        digits = re.sub(r"[^a-z0-9]", "", digest.removeprefix("sha256:").lower())[:DIGITS]
        return f"{dns_label(self.variant, LONGEST_VARIANT)}-{digits}"


@dataclass(frozen=True)
class Traffic:
    """The two releases that share the traffic."""

    service: str
    mode: str
    stable: Release
    """The one that serves when the rollout begins."""
    variant: Release
    settings: ServingSettings
    namespace: str = ""

    def objects(self, kind: ObjectKind, percent: int) -> list[JSON]:
        """The objects of the kind that give the variant this share; 0 is the rollback."""
        if kind == LLM_INFERENCE_SERVICE:
            shares = (self.stable, ALL - percent), (self.variant, percent)
            return [llm_inference_service(self, release, weight) for release, weight in shares]
        return [inference_service(self, percent)]


def release_of(decision: Decision, variant: str, uri: str = "", forced: str = "") -> Release:
    """The variant's release with the store's address of the weights, or another one."""
    weights, verdict = weights_of(decision, variant), verdict_on(decision, variant)
    facts = {
        "variant": variant,
        "verdict": verdict.verdict,
        "digest": weights.digest,
        "use-case": decision.use_case,
        "evidence": decision.digests.combined if decision.digests else "",
        "forced": forced,
    }
    parser = decision.plan.tool_parser if decision.plan else ""
    options = weights.model_copy(update={"tool_call_parser": parser}).server_options
    return Release(variant, weights.digest, uri or weights.uri, options, tuple(facts.items()))


def traffic_of(decision: Decision, plan: RolloutPlan, destination: Destination, settings: ServingSettings) -> Traffic:
    """The release of the variant, and that of the variant which it replaces."""
    return Traffic(
        service=plan.service,
        mode=plan.mode,
        stable=release_of(decision, plan.replaces, destination.replaced_uri),
        variant=release_of(decision, plan.variant, destination.storage_uri, plan.forced),
        settings=settings,
        namespace=destination.namespace,
    )


def inference_service(traffic: Traffic, percent: int) -> JSON:
    """The InferenceService in which the variant has this share."""
    knative = traffic.mode == KNATIVE
    served = traffic.variant if percent == ALL or (knative and percent) else traffic.stable
    spec: JSON = {"predictor": predictor(traffic, served)}
    if 0 < percent < ALL and knative:
        spec["predictor"]["canaryTrafficPercent"] = percent
    elif 0 < percent < ALL:
        spec["canary"] = [{"predictor": predictor(traffic, traffic.variant), "trafficPercent": percent}]
    mode = {"serving.kserve.io/deploymentMode": "Knative" if knative else "Standard"}
    # the number of replicas is the predictor's own: KServe allows no autoscaler beside a canary
    scaled = {} if knative else {"serving.kserve.io/autoscalerClass": "external"}
    return {
        "apiVersion": f"{INFERENCE_SERVICE.group}/{INFERENCE_SERVICE.version}",
        "kind": "InferenceService",
        "metadata": {"name": traffic.service, "annotations": {**mode, **scaled}},
        "spec": spec,
    }


def predictor(traffic: Traffic, release: Release) -> JSON:
    """The release's predictor. It answers to the service's name, and names itself in answers and metrics."""
    settings = traffic.settings
    model = {
        "name": vllm_pod.KSERVE_CONTAINER,  # the schema of a canary demands it
        "modelFormat": {"name": "vLLM"},
        "runtime": settings.runtime,
        "storageUri": release.uri,
        "args": ["--served-model-name", release.id, traffic.service, *options_of(release, settings)],
        "env": vllm_pod.environment(settings, {}),
        "resources": vllm_pod.resources(settings),
        "volumeMounts": vllm_pod.shared_memory_mount(),
        **({"image": settings.image} if settings.image else {}),
    }
    return {
        **({} if traffic.mode == KNATIVE else {"name": release.id}),
        "annotations": annotations(dict(release.facts)),
        "minReplicas": 1,
        "model": model,
        **vllm_pod.placed(settings),
        "volumes": vllm_pod.volumes(settings),
    }


def llm_inference_service(traffic: Traffic, release: Release, weight: int) -> JSON:
    """The release's LLMInferenceService, with its weight in the routing group of the service."""
    settings = traffic.settings
    options = shlex.join(options_of(release, settings))
    variables = {**dict(settings.env), **({LLM_OPTIONS: options} if options else {})}
    container = {
        "name": LLM_CONTAINER,
        **({"image": settings.image} if settings.image else {}),
        **({"env": [{"name": name, "value": value} for name, value in variables.items()]} if variables else {}),
        "resources": vllm_pod.resources(settings),
    }
    return {
        "apiVersion": f"{LLM_INFERENCE_SERVICE.group}/{LLM_INFERENCE_SERVICE.version}",
        "kind": "LLMInferenceService",
        "metadata": {"name": llm_name(traffic, release)},
        "spec": {
            "annotations": annotations(dict(release.facts)),
            "model": {"name": traffic.service, "uri": release.uri},
            "replicas": 1,
            "router": {"route": {"group": traffic.service, "weight": weight, "http": {}}, "gateway": {}},
            "template": {"containers": [container], **vllm_pod.placed(settings)},
        },
    }


def llm_name(traffic: Traffic, release: Release) -> str:
    """The name of the release's LLMInferenceService."""
    return f"{traffic.service}-{release.id}"


def options_of(release: Release, settings: ServingSettings) -> Iterable[str]:
    """vLLM's options: those that belong to the variant, those of the hardware, those of the settings.

    `--generation-config vllm` is not among them: it makes the models answer benchmarks alike, and would take from
    users the sampling that the model's authors recommend.
    """
    size = settings.tensor_parallel_size
    parallel = ("--tensor-parallel-size", str(size)) if size > 1 else ()
    return chain(release.options, parallel, () if settings.gpus else CPU_OPTIONS, settings.options)
