"""The step flows: ask a served variant what the application asks, and add the scores of its checks."""

import tempfile
import time
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.exchanges import FlowExchange, write_exchanges
from quantgate.components.flow_cases.flow_file import FlowSet
from quantgate.components.run import progress
from quantgate.components.run.artifacts import FLOWS, Scores, Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults


def flows(server: str, full: str, plan: str, scores: str) -> None:
    """Ask the variant the run's flows, store every request and answer, and add the scores of the checks.

    Without flows, for a variant without scores or with an earlier run's, the scores stay as they are. If the server
    fails, the variant has the reason in place of scores: a flow that was not answered neither passed nor failed.
    """
    serving, measured, planned = Server.read(server), Scores.read(full), EvaluationPlan.read(plan)
    if not planned.flows_kept or measured.failure or measured.scored_in:
        measured.write(scores)
        return
    with progress.step(planned.results, FLOWS, serving.variant) as step:
        flow_set = RunResults(planned.results).flows.read(FlowSet)
        if flow_set is None:
            raise PrerequisiteError(f"The flows of this run are missing from {planned.results}: run it again.")
        failure, note = "", ""
        if serving.failure:  # the baseline's answers to the benchmarks came from the ledger, which has none to flows
            failure = f"Its flows were not asked: {serving.failure}"
        else:
            try:
                measured = with_scores(measured, planned, flow_set, asked(serving, planned, flow_set, step))
                note = ", ".join(f"{task.task} {task.score:.3f}" for task in measured.tasks if task.task == FLOWS)
            except PrerequisiteError as error:
                failure = f"Its flows were not answered: {error} The server's log: {serving.log}"
        if failure:
            measured = measured.model_copy(update={"tasks": (), "failure": failure})
        measured = measured.model_copy(update={"ended_at": time.time()})
        measured.write(scores)
        RunResults(planned.results).scores(measured.variant, FULL).put(Path(scores))  # as evaluate-full does
        left_out = len(planned.flows_left_out)
        note += f"; {left_out} of {len(flow_set.flows)} flows are left out" if left_out else ""
        step.end(failure=measured.failure, note=note)


def asked(serving: Server, plan: EvaluationPlan, flow_set: FlowSet, step: progress.Step) -> list[FlowExchange]:
    """The variant's checked answers to all flows; raises PrerequisiteError when its server fails."""
    from quantgate.components.flows.asking import ask
    from quantgate.components.flows.rubrics import checked_all, judge_of_run
    from quantgate.components.servers import lifecycle, local_server
    from quantgate.components.servers.client import ServerFailedError, client_of
    from quantgate.components.servers.followed_server import FollowedServer

    by_id = {flow.id: flow for flow in flow_set.asked}
    total = sum(flow.repeats for flow in flow_set.asked)
    exchanges: list[FlowExchange] = []

    def on_exchange(exchange: FlowExchange) -> None:
        exchanges.append(exchange)
        step.advance(len(exchanges), total, exchange.flow)

    with judge_of_run(serving, plan) as judge:
        try:
            with lifecycle.kept_alive(serving, plan.results):
                followed = FollowedServer(serving, plan.results)
                followed.check()
                ask(client_of(followed.server, followed.check), flow_set.asked, on_exchange)
                followed.check()
        except ServerFailedError as error:
            raise PrerequisiteError(" ".join(filter(None, [local_server.why_it_ended(serving), str(error)]))) from error
        return checked_all(by_id, exchanges, serving.variant, judge, step.advance)


def with_scores(measured: Scores, plan: EvaluationPlan, flow_set: FlowSet, exchanges: list[FlowExchange]) -> Scores:
    """The scores with those of the flows; their records join the stage's, and the transcript is stored."""
    from quantgate.components.flows.checked import records_of, task_scores
    from quantgate.components.run import records
    from quantgate.components.run.artifacts import is_flow_task

    results = RunResults(plan.results).variant(measured.variant)
    with tempfile.TemporaryDirectory() as scratch:
        transcript = Path(scratch) / "exchanges"
        write_exchanges(exchanges, transcript)
        results.transcripts.put(transcript)
        file = results.records(measured.stage).fetched(Path(scratch), f"evaluate {measured.variant} again")
        others = [row for row in records.read(file) if not is_flow_task(row.task)]
        rows = records_of(measured.variant, flow_set, exchanges)
        records.write([*others, *rows], file)
        results.records(measured.stage).put(file)
    scored = tuple(score for score in measured.tasks if not is_flow_task(score.task))
    return measured.model_copy(update={"tasks": (*scored, *task_scores(flow_set, rows))})
