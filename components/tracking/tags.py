"""The names of experiments, tags and artifacts with which a later run finds earlier ones in MLflow."""

RUN_ID_TAG = "quantgate.run_id"
VARIANT_TAG = "quantgate.variant"
"""Missing on the pipeline run's own MLflow run."""


JUDGED_BY = "quantgate.judged_by"
"""sha256 of everything but the base model that a verdict depends on, see earlier.py."""


EXPERIMENTS = "quantgate/"
DECISION, VERDICT, WEIGHTS, SCORES, FLIPS = (
    f"{name}.json" for name in ("decision", "verdict", "weights", "scores", "flips")
)
"""The file names of a run's artifacts in MLflow."""


def experiment_name(source: str, use_case: str) -> str:
    """One experiment per base model and use case, so that a retrained model's runs are listed with the earlier ones."""
    return f"{EXPERIMENTS}{source}/{use_case}"
