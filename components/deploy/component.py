"""kfp's types around the steps deploy and undeploy."""

from kfp import dsl

from components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    weights: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    tracking_uri: str,
    server: dsl.Output[dsl.Artifact],
):
    """Serve the variant's weights with vLLM."""
    from components.deploy import step as deploy_step

    deploy_step.deploy(weights.path, plan.path, tracking_uri, server.path)


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def undeploy(results: str, run_id: str, variant: str = ""):  # kfp wants a default where upstream failures are ignored
    """Stop the variant's server."""
    from components.deploy import step as deploy_step
    from components.run.results import run_location

    deploy_step.undeploy(variant, run_location(results, run_id))
