"""The kfp component of the report step."""

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    decision: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
):
    """Write the decision matrix for people and for scripts."""
    from quantgate.components.report import step as report_step
    from quantgate.components.run.plan import EvaluationPlan

    results = EvaluationPlan.read(plan.path).results
    html.metadata["results"], html.metadata["display_name"] = results, "Report"
    markdown.metadata["display_name"] = "Report as Markdown"
    report_step.report(decision.path, results, html.path, markdown.path)
