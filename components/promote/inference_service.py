"""The deployment side of a promotion: a patch for a GitOps repository that names the weights to serve."""

from pathlib import Path

import yaml

from components.errors import PrerequisiteError
from components.promote.promotion import Promotion
from components.storage.artifact import write_text


def check_reachable(weights: str) -> None:
    """Raise PrerequisiteError for weights that no cluster can load."""
    if not weights.startswith(("s3://", "gs://", "pvc://", "https://", "hf://")):
        raise PrerequisiteError(
            f"KServe cannot load {weights}: the weights are on one machine. Run the pipeline with --store s3://BUCKET/PREFIX."
        )


def write_patch(promotion: Promotion, service: str, file: Path) -> None:
    """Write a patch for the KServe InferenceService of that name."""
    summary = f"{promotion.model} version {promotion.champion}: {promotion.variant}, verdict {promotion.verdict}"
    patch = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service,
            "annotations": {"quantgate/model": promotion.model, "quantgate/version": promotion.champion},
        },
        "spec": {"predictor": {"model": {"storageUri": promotion.weights}}},
    }
    reason = f", forced: {' '.join(promotion.forced.split())}" if promotion.forced else ""
    write_text(file, f"# {summary}{reason}\n{yaml.safe_dump(patch)}")
