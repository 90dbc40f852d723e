"""kfp's types around the step track."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track(
    decision: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    html: dsl.Input[dsl.HTML],
    markdown: dsl.Input[dsl.Markdown],
    run_id: str,
    tracked: dsl.Output[dsl.Artifact],
):
    """Record the run in MLflow."""
    from quantgate.components.run.plan import EvaluationPlan
    from quantgate.components.track import step as track_step

    tracked.metadata["display_name"], planned = "MLflow run", EvaluationPlan.read(plan.path)
    tracked.metadata["mlflow"] = track_step.track(
        decision.path, run_id, planned.results, planned.tracking_uri, html.path, markdown.path, tracked.path
    )
