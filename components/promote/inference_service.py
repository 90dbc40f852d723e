"""The deployment side of a promotion: a patch for a GitOps repository that names the weights to serve."""

from pathlib import Path

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.promotion import Promotion
from quantgate.components.storage.artifact import write_text


def check_reachable(weights: str) -> None:
    """Raise PrerequisiteError for weights that no cluster can load."""
    if not weights.startswith(("s3://", "gs://", "pvc://", "https://", "hf://")):
        raise PrerequisiteError(
            f"KServe cannot load {weights}: the weights are on one machine. Run the pipeline with --store s3://BUCKET/PREFIX."
        )


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
        "metadata": {
            "name": service,
            "annotations": {f"quantgate/{name}": value for name, value in facts.items() if value},
        },
        "spec": {"predictor": {"model": {"storageUri": promotion.weights}}},
    }
    write_text(file, yaml.safe_dump(patch))
