"""The kfp component of the report step."""

from kfp import dsl

from components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    decision: dsl.Input[dsl.Artifact],
    results: str,
    run_id: str,
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
):
    """Write the decision matrix for people and for scripts."""
    from components.report import step as report_step
    from components.run.results import run_location

    html.metadata["results"] = run_location(results, run_id)
    report_step.report(decision.path, run_location(results, run_id), html.path, markdown.path)
