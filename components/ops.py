"""The kfp shells of the steps: kfp's types around one call each. The only file here that imports kfp.

kfp copies a shell's source into the pipeline, so a shell imports inside its body and its signature holds only what kfp
knows; the image, which pipelines/cluster.py sets, brings the packages.
"""

import functools
from collections.abc import Callable
from typing import List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

IMAGE = "quantgate:0.1.0"


def shell(function: Callable[..., object]) -> Callable[..., dsl.PipelineTask]:
    """A component of the function, never cached: kfp's cache sees neither package code nor whether a server runs."""
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)

    @functools.wraps(function)
    def task(**inputs: object) -> dsl.PipelineTask:
        return component(**inputs).set_caching_options(False)

    return task


@shell
def resolve(
    model: str,
    variants: List[str],
    suite: str,
    custom: List[str],
    limit: int,
    data: str,
    chat_template: bool,
    irt_parameters: str,
    use_case: str,
    policy: str,
    stop_early: bool,
    noise_floor: bool,
    ledger: bool,
    skip_judged: bool,
    calibration_samples: int,
    calibration_tokens: int,
    store: str,
    results: str,
    run_id: str,
    tracking_uri: str,
    baseline: dsl.Output[dsl.Model],
    plan: dsl.Output[dsl.Artifact],
) -> List[str]:
    """Check the parameters, bring model and rows to where the run finds them, and name the variants to run."""
    from components import steps
    from components.artifacts import EvaluationPlan
    from components.store import of_run

    asked = EvaluationPlan(
        variants=tuple(variants),
        suite=suite,
        custom=tuple(custom),
        limit=int(limit),
        data=data,
        chat_template=chat_template,
        irt_parameters=irt_parameters,
        use_case=use_case,
        policy=policy,
        stop_early=stop_early,
        noise_floor=noise_floor,
        ledger=ledger,
        skip_judged=skip_judged,
        calibration_samples=int(calibration_samples),
        calibration_tokens=int(calibration_tokens),
        store=store,
        results=of_run(results, run_id),
    )
    return steps.resolve(model, asked, tracking_uri, baseline.path, plan.path)


@shell
def quantize(
    variant: str,
    baseline: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    weights: dsl.Output[dsl.Model],
):
    """Make the variant's weights with llm-compressor."""
    from components import steps

    steps.quantize(variant, baseline.path, plan.path, weights.path)


@shell
def deploy(
    weights: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    tracking_uri: str,
    server: dsl.Output[dsl.Artifact],
):
    """Serve the variant's weights with vLLM."""
    from components import steps

    steps.deploy(weights.path, plan.path, tracking_uri, server.path)


@shell
def evaluate_tiny(
    server: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
):
    """Test the served variant on the suite's few items."""
    from components import steps

    steps.evaluate_tiny(server.path, plan.path, scores.path, records.path)


@shell
def evaluate_full(
    server: dsl.Input[dsl.Artifact],
    tiny: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
):
    """Test the served variant on the suite's items, until more answers could not change its verdict."""
    from components import steps

    steps.evaluate_full(server.path, tiny.path, plan.path, scores.path, records.path)


@shell
def execute(full: dsl.Input[dsl.Artifact], plan: dsl.Input[dsl.Artifact], scores: dsl.Output[dsl.Artifact]):
    """Run the programs that the variant wrote, in a sandbox."""
    from components import steps

    steps.execute(full.path, plan.path, scores.path)


@shell
def undeploy(results: str, run_id: str, variant: str = ""):  # kfp wants a default where upstream failures are ignored
    """Stop the variant's server."""
    from components import steps
    from components.store import of_run

    steps.undeploy(variant, of_run(results, run_id))


@shell
def gate(
    baseline: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    weights: dsl.Input[List[dsl.Model]],
    scores: dsl.Input[List[dsl.Artifact]],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Decide on every variant."""
    from components import steps

    made, scored = [each.path for each in weights], [each.path for each in scores]
    for name, value in steps.gate(baseline.path, plan.path, made, scored, decision.path).items():
        metrics.log_metric(name, value)


@shell
def report(
    decision: dsl.Input[dsl.Artifact],
    results: str,
    run_id: str,
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
):
    """Write the decision matrix for people and for scripts."""
    from components import steps
    from components.store import of_run

    html.metadata["results"] = of_run(results, run_id)
    steps.report(decision.path, of_run(results, run_id), html.path, markdown.path)


@shell
def track(
    decision: dsl.Input[dsl.Artifact],
    html: dsl.Input[dsl.HTML],
    markdown: dsl.Input[dsl.Markdown],
    run_id: str,
    results: str,
    tracking_uri: str,
    tracked: dsl.Output[dsl.Artifact],
):
    """Record the run in MLflow."""
    from components import steps
    from components.store import of_run

    tracked.metadata["mlflow"] = steps.track(
        decision.path, run_id, of_run(results, run_id), tracking_uri, html.path, markdown.path, tracked.path
    )


@shell
def promote(
    decision: dsl.Input[dsl.Artifact],
    tracked: dsl.Input[dsl.Artifact],
    results: str,
    run_id: str,
    tracking_uri: str,
    move: bool,
    promoted: dsl.Output[dsl.Artifact],
):
    """Register the variants, and let the candidate become champion where its verdict allows it."""
    from components import steps
    from components.store import of_run

    steps.promote(decision.path, tracked.path, of_run(results, run_id), tracking_uri, promoted.path, move=move)
