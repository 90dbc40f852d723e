"""The deployment side of a promotion: a patch for a GitOps repository that names the weights to serve."""

from pathlib import Path

import yaml

from quantgate.components.promote.promotion import Promotion
from quantgate.components.rollout.storage_address import annotations
from quantgate.components.storage.artifact import write_text


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
