"""kfp's types around the step promote."""

from kfp import dsl

from components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
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
    from components.promote import step as promote_step
    from components.run.results import run_location

    promote_step.promote(
        decision.path, tracked.path, run_location(results, run_id), tracking_uri, promoted.path, move=move
    )
