"""kfp's types around the step conclude."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def conclude(decision: dsl.Input[dsl.Artifact], plan: dsl.Input[dsl.Artifact]):
    """Fail the run if it has a verdict that the plan names for that; everything is recorded by now."""
    from quantgate.components.conclude import step as conclude_step

    conclude_step.conclude(decision.path, plan.path)
