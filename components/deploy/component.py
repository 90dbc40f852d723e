"""kfp's types around the steps deploy and undeploy."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    weights: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    server: dsl.Output[dsl.Artifact],
):
    """Serve the variant's weights with vLLM."""
    from quantgate.components.deploy import step as deploy_step

    server.metadata["display_name"] = "Server"
    deploy_step.deploy(weights.path, plan.path, server.path)


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def undeploy(plan: dsl.Input[dsl.Artifact] = None, variant: str = ""):  # kfp wants defaults: it ignores failures
    """Stop the variant's server."""
    from quantgate.components.deploy import step as deploy_step
    from quantgate.components.run.plan import EvaluationPlan

    deploy_step.undeploy(variant, EvaluationPlan.read(plan.path).results)
