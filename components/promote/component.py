"""kfp's types around the step promote."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    decision: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    tracked: dsl.Input[dsl.Artifact],
    move: bool,
    promoted: dsl.Output[dsl.Artifact],
):
    """Register the variants, and let the candidate become champion where its verdict allows it."""
    from quantgate.components.promote import step as promote_step
    from quantgate.components.run.plan import EvaluationPlan

    promoted.metadata["display_name"], planned = "Registered versions", EvaluationPlan.read(plan.path)
    promote_step.promote(decision.path, tracked.path, planned.results, planned.tracking_uri, promoted.path, move=move)
