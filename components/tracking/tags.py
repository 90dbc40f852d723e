"""By what names MLflow's experiments and runs are found again."""

RUN_ID_TAG = "quantgate.run_id"
VARIANT_TAG = "quantgate.variant"
"""Missing on the pipeline run's own row."""


JUDGED_BY = "quantgate.judged_by"
"""sha256 of all that a verdict depends on beside the base model, see earlier.py."""


EXPERIMENTS = "quantgate/"
DECISION, VERDICT, WEIGHTS, SCORES, FLIPS = (
    f"{name}.json" for name in ("decision", "verdict", "weights", "scores", "flips")
)
"""What the artifacts of a run in MLflow are called."""


def experiment_name(source: str, use_case: str) -> str:
    """One experiment per base model and use case, so that a retrained model's runs stand beside the earlier ones."""
    return f"{EXPERIMENTS}{source}/{use_case}"
