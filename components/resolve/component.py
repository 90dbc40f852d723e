"""kfp's types around the step resolve."""

from typing import Any, Dict, List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

from quantgate.components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
    model: str,
    variants: List[str],
    suite: str,
    use_case: str,
    policy: str,
    limit: int,
    promote: bool,
    settings: Dict[str, Any],
    run_id: str,
    baseline: dsl.Output[dsl.Model],
    plan: dsl.Output[dsl.Artifact],
) -> List[str]:
    """Check the parameters, store the model and the rows for the run, and name the variants to run."""
    from quantgate.components.resolve import cluster_places, run_settings
    from quantgate.components.resolve import step as resolve_step
    from quantgate.components.run import progress

    parameters = {"variants": variants, "suite": suite, "use_case": use_case, "policy": policy, "limit": limit}
    with progress.before_plan("resolve"):
        requested = run_settings.plan_of(parameters, settings, run_id, promote=promote)
        cluster_places.check_in_pod(model, requested)
    baseline.metadata["display_name"], plan.metadata["display_name"] = "Base model", "Evaluation plan"
    return resolve_step.resolve(model, requested, baseline.path, plan.path)
