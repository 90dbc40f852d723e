"""kfp's types around the steps evaluate-tiny and evaluate-full."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_tiny(
    server: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
):
    """Test the served variant on the suite's few items."""
    from quantgate.components.evaluate import step as evaluate_step

    scores.metadata["display_name"] = "Scores, few items"
    records.metadata["display_name"] = "Answers, few items"
    evaluate_step.evaluate_tiny(server.path, plan.path, scores.path, records.path)


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_full(
    server: dsl.Input[dsl.Artifact],
    tiny: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
    records: dsl.Output[dsl.Dataset],
):
    """Test the served variant on the suite's items, until more answers could not change its verdict."""
    from quantgate.components.evaluate import step as evaluate_step

    scores.metadata["display_name"] = "Scores, all items"
    records.metadata["display_name"] = "Answers, all items"
    evaluate_step.evaluate_full(server.path, tiny.path, plan.path, scores.path, records.path)
