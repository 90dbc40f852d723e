"""kfp's types around the step gate."""

from typing import List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    baseline: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    weights: dsl.Input[List[dsl.Model]],
    scores: dsl.Input[List[dsl.Artifact]],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Decide on every variant."""
    from quantgate.components.gate import step as gate_step

    decision.metadata["display_name"], metrics.metadata["display_name"] = "Decision", "Metrics"
    weight_files, score_files = [artifact.path for artifact in weights], [artifact.path for artifact in scores]
    for name, value in gate_step.gate(baseline.path, plan.path, weight_files, score_files, decision.path).items():
        metrics.log_metric(name, value)
