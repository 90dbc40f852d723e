"""kfp's types around the step flows."""

from kfp import dsl

from components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def flows(
    server: dsl.Input[dsl.Artifact],
    full: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
):
    """Ask the served variant what the application asks, and check its answers."""
    from components.flows import step as flows_step

    scores.metadata["display_name"] = "Scores with flows"
    flows_step.flows(server.path, full.path, plan.path, scores.path)
