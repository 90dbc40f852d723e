"""The deployment side of a promotion: a patch for a GitOps repository that names the weights to serve."""

from pathlib import Path

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.gguf_file import NOT_ON_KSERVE
from quantgate.components.promote.promotion import Promotion
from quantgate.components.rollout.storage_address import annotations, check_reachable
from quantgate.components.run.artifacts import Weights
from quantgate.components.storage.artifact import write_text


def check_servable(weights: Weights) -> None:
    """Raise PrerequisiteError for weights that KServe's vLLM does not serve, or that no cluster can load."""
    if weights.is_gguf:
        raise PrerequisiteError(NOT_ON_KSERVE)
    check_reachable(weights.uri)


def write_patch(promotion: Promotion, service: str, file: Path) -> None:
    """Write a patch for the KServe InferenceService of that name."""
    facts = {
        "model": promotion.model,
        "version": promotion.champion,
        "variant": promotion.variant,
        "verdict": promotion.verdict,
        "forced": promotion.forced,
        "kv-cache-dtype": promotion.kv_cache_dtype,
    }
    patch = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service, "annotations": annotations(facts)},
        "spec": {"predictor": {"model": {"storageUri": promotion.weights}}},
    }
    write_text(file, yaml.safe_dump(patch))
