"""kfp's types around the step execute."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def execute(full: dsl.Input[dsl.Artifact], plan: dsl.Input[dsl.Artifact], scores: dsl.Output[dsl.Artifact]):
    """Run the programs that the variant wrote, in a sandbox; in a search, judge the variant."""
    from quantgate.components.execute import step as execute_step

    scores.metadata["display_name"] = "Scores with programs"
    execute_step.execute(full.path, plan.path, scores.path)
