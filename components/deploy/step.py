"""The steps deploy and undeploy: start and stop a variant's server."""

from pathlib import Path

from components.deploy import earlier_scores
from components.errors import PrerequisiteError
from components.run import progress
from components.run.artifacts import Server, Weights
from components.run.plan import EvaluationPlan
from components.run.results import RunResults
from components.storage.cache import cache_dir
from components.storage.location import fetch


def deploy(weights: str, plan: str, tracking_uri: str, server: str) -> None:
    """Serve the variant's weights; not the baseline's where MLflow holds its answers to just these questions."""
    from components.servers import lifecycle

    made, planned = Weights.read(weights), EvaluationPlan.read(plan)
    results = planned.results
    with progress.step(results, "deploy", made.variant) as step:
        started = Server(variant=made.variant, failure=made.failure)
        if not made.failure:
            try:
                folder = fetch(made.uri, cache_dir(), weights=lifecycle.reads_weights())
                held = earlier_scores.scored_before(
                    made, planned, lifecycle.identity_here(folder, made.digest), tracking_uri
                )
                started = held or lifecycle.deploy(made, folder, results)
            except PrerequisiteError as error:
                started = Server(variant=made.variant, failure=str(error))
        started.write(server)
        RunResults(results).server(made.variant).put(Path(server))
        note = f"scored before in {started.scored_in}" if started.scored_in else in_words(started)
        step.end(started.failure, skipped=bool(made.failure or started.scored_in), note=note)


def in_words(started: Server) -> str:
    """Where a server answers, for a step's note."""
    return f"{started.url} after {started.startup_s:.0f} s"


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server, if `deploy` got so far as to start one."""
    from components.servers import lifecycle

    with progress.step(results, "undeploy", variant):
        lifecycle.undeploy(variant, results)
