"""The steps deploy and undeploy: start and stop a variant's server."""

from pathlib import Path

from quantgate.components.deploy import earlier_scores
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import fetch_model
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir


def deploy(weights: str, plan: str, server: str) -> None:
    """Serve the variant's weights.

    Start no server when MLflow has the baseline's scores for the same questions, or when the variant cannot be judged
    because its baseline has no scores.
    """
    from quantgate.components.evidence.reference import without_reference
    from quantgate.components.servers import lifecycle

    quantized, planned = Weights.read(weights), EvaluationPlan.read(plan)
    results = planned.results
    with progress.step(results, "deploy", quantized.variant) as step:
        reason = quantized.failure or without_reference(quantized.variant, planned)
        identity = None
        started = Server(variant=quantized.variant, failure=reason)
        if not reason:
            try:
                quantized = quantized.model_copy(update={"tool_call_parser": planned.tool_parser})
                reads_weights = lifecycle.reads_weights()
                folder = fetch_model(quantized.uri, quantized.digest, cache_dir(), weights=reads_weights)
                identity = lifecycle.identity_here(quantized, folder, planned.window)
                scored = earlier_scores.scored_before(quantized, planned, identity)
                started = scored or lifecycle.deploy(quantized, folder, results, planned.window)
            except PrerequisiteError as error:
                engine = identity.engine if identity else ""
                started = Server(variant=quantized.variant, engine=engine, identity=identity, failure=str(error))
        started.write(server)
        RunResults(results).server(quantized.variant).put(Path(server))
        note = f"scored before in {started.scored_in}" if started.scored_in else describe(started)
        step.end(started.failure, skipped=bool(reason or started.scored_in), note=note)


def describe(server: Server) -> str:
    """The server's address and its startup time, for a step's note."""
    return f"{server.url} after {server.startup_s:.0f} s"


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server, if `deploy` started one."""
    from quantgate.components.servers import lifecycle

    with progress.step(results, "undeploy", variant):
        lifecycle.undeploy(variant, results)
