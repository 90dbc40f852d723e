"""kfp's types around the step quantize."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def quantize(
    variant: str,
    baseline: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    weights: dsl.Output[dsl.Model],
):
    """Make the variant's weights with llm-compressor."""
    from quantgate.components.quantize import step as quantize_step

    weights.metadata["display_name"] = "Weights"
    quantize_step.quantize(variant, baseline.path, plan.path, weights.path)
