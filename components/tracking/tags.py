"""The names of experiments, tags and artifacts with which a later run finds earlier ones in MLflow."""

import string
from urllib.parse import quote

RUN_ID_TAG = "quantgate.run_id"
VARIANT_TAG = "quantgate.variant"
"""Missing on the pipeline run's own MLflow run."""
SOURCE_TAG = "quantgate.source"
"""On experiments and registered models: the source of the base model."""
USER_TAG = "mlflow.user"
"""MLflow's own, which the client sets; so it proves nothing."""
VERDICT_TAG, SENTENCE_TAG = "verdict", "sentence"
"""On the runs of the variants."""

EVIDENCE = "evidence_digest"
"""The parameter with one digest of all that the verdicts were reached by, see components/run/evidence_digests.py."""
RECORDED = "quantgate.recorded"
"""On the run of Kubeflow's plugin that a pipeline run is recorded in, once it is complete, see kubeflow_run.py."""
SIGNATURE = "quantgate.signature"
"""On the pipeline run's own MLflow run, see signature.py."""
JUDGED_BY = "quantgate.judged_by"
"""sha256 of everything but the base model that a verdict depends on, see earlier.py."""


EXPERIMENTS = "quantgate/"
DECISION, VERDICT, WEIGHTS, SCORES, FLIPS = (
    f"{name}.json" for name in ("decision", "verdict", "weights", "scores", "flips")
)
"""The file names of a run's artifacts in MLflow."""


def experiment_name(source: str, use_case: str) -> str:
    """One experiment per base model and use case, so that a retrained model's runs are listed with the earlier ones."""
    return ascii_name(f"{EXPERIMENTS}{source}/{use_case}")


def ascii_name(text: str) -> str:
    """The text as a name in another system: each character outside ASCII becomes `%` and its bytes.

    A database whose encoding is SQL_ASCII refuses other names.
    """
    return quote(text, safe=string.printable)
