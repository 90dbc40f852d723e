"""The load test of a variant's server after its full stage, where the plan asks for one."""

import time

from quantgate.components.run import progress
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.load_results import LoadTest, load_settings
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults

STEP = "speed"


def after_full_stage(serving: Server, full: Scores, plan: EvaluationPlan) -> None:
    """Measure the server's speed and save it in the results; a failed test is saved with its reason.

    A variant whose full stage failed is not tested: it cannot ship.
    """
    settings = load_settings(plan.speed, on_cpu=bool(serving.identity and serving.identity.on_cpu))
    if settings is None or full.failure:
        return
    from quantgate.components.servers.bench_serve import load_test

    with progress.step(plan.results, STEP, serving.variant) as step:
        if serving.failure:  # the scores came from the ledger
            test = LoadTest(variant=serving.variant, failure=f"Its server did not start: {serving.failure}")
        else:
            test = load_test(serving, settings, plan.results)
        device = serving.identity.device if serving.identity else ""
        test = test.model_copy(update={"ended_at": time.time(), "device": device})
        RunResults(plan.results).load_test(serving.variant).write(test)
        step.end(test.failure, note=test.describe())
