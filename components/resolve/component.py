"""kfp's types around the step resolve."""

from typing import List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

from components.run.shell import IMAGE, uncached


@uncached
@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
    model: str,
    variants: List[str],
    suite: str,
    trust_tasks: bool,
    custom: List[str],
    limit: int,
    data: str,
    max_model_len: int,
    chat_template: bool,
    chat: str,
    samples: int,
    temperature: float,
    max_answer_tokens: int,
    irt_parameters: str,
    use_case: str,
    policy: str,
    stop_early: bool,
    noise_floor: bool,
    ledger: bool,
    skip_judged: bool,
    fail_run_on: str,
    calibration_samples: int,
    calibration_tokens: int,
    store: str,
    results: str,
    run_id: str,
    tracking_uri: str,
    baseline: dsl.Output[dsl.Model],
    plan: dsl.Output[dsl.Artifact],
) -> List[str]:
    """Check the parameters, store the model and the rows for the run, and name the variants to run."""
    from components.resolve import step as resolve_step
    from components.run.plan import EvaluationPlan
    from components.run.results import run_location

    evaluation_plan = EvaluationPlan(
        variants=tuple(variants),
        suite=suite,
        trust_tasks=trust_tasks,
        custom=tuple(custom),
        limit=int(limit),
        data=data,
        max_model_len=int(max_model_len),
        chat_template=chat_template,
        chat=chat,
        samples=int(samples),
        temperature=float(temperature),
        max_answer_tokens=int(max_answer_tokens),
        irt_parameters=irt_parameters,
        use_case=use_case,
        policy=policy,
        stop_early=stop_early,
        noise_floor=noise_floor,
        ledger=ledger,
        skip_judged=skip_judged,
        fail_run_on=fail_run_on,
        calibration_samples=int(calibration_samples),
        calibration_tokens=int(calibration_tokens),
        store=store,
        results=run_location(results, run_id),
    )
    return resolve_step.resolve(model, evaluation_plan, tracking_uri, baseline.path, plan.path)
