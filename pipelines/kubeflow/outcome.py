"""The verdict of a run on Kubeflow, from where this machine reaches it: Kubeflow, MLflow, or the results in S3."""

import json
from collections.abc import Callable, Iterator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.results import RunResults

Verdicts = tuple[tuple[str, str, str], ...]
"""The variants, each with its verdict and sentence."""


def read_verdicts(logged: Verdicts, run_id: str, tracking_uri: str, results: RunResults) -> Verdicts:
    """The variants' verdicts; raises PrerequisiteError that says where they are when none of the ways leads there."""
    refusals = []
    for name, read in ways(logged, run_id, tracking_uri, results):
        try:
            return read()
        except PrerequisiteError as error:
            refusals.append(f"- {name}: {str(error).partition(chr(10))[0]}")
    raise PrerequisiteError(
        "\n".join(
            [
                "The run has ended, but its verdict cannot be read from this machine:",
                *refusals,
                f"It is in {results.verdicts}, and in the report on the run's page in Kubeflow, at the step `report`.",
            ]
        )
    )


def ways(
    logged: Verdicts, run_id: str, tracking_uri: str, results: RunResults
) -> Iterator[tuple[str, Callable[[], Verdicts]]]:
    """The ways to the verdicts, the nearest first, each with its name."""
    yield "Kubeflow", lambda: in_log(logged)
    yield "MLflow", lambda: in_mlflow(run_id, tracking_uri)
    yield "S3", lambda: in_results(results)


def in_log(logged: Verdicts) -> Verdicts:
    """The verdicts that the step `report` has printed into its log."""
    if not logged:
        raise PrerequisiteError("the log of the step `report` is not available or names no verdict.")
    return logged


def in_mlflow(run_id: str, tracking_uri: str) -> Verdicts:
    """The verdicts in the decision that the run recorded."""
    if not tracking_uri:
        raise PrerequisiteError("the run has no tracking URI, and MLFLOW_TRACKING_URI is not set.")
    from quantgate.components.tracking.earlier import find_verdicts

    verdicts = find_verdicts(run_id, tracking_uri)
    if not verdicts:
        raise PrerequisiteError(f"{tracking_uri} does not have the run.")
    return verdicts


def in_results(results: RunResults) -> Verdicts:
    """The verdicts in the run's results."""
    text = results.verdicts.text()
    if text is None:
        raise PrerequisiteError(
            f"{results.location} has no {results.verdicts.name}. Read the log of the run's step `report`."
        )
    return tuple((row["variant"], row["verdict"], row["sentence"]) for row in json.loads(text)[1:])
