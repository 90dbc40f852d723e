"""The rubrics of flows, decided by a judge after all answers are there."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from quantgate.components.flow_cases.exchanges import FlowExchange
from quantgate.components.flow_cases.flow_checks import FlowCheck
from quantgate.components.flow_cases.flow_file import Flow
from quantgate.components.flows.checked import checked
from quantgate.components.judging.judge_endpoint import Judge
from quantgate.components.judging.judge_identity import ServedModel, address_of
from quantgate.components.judging.judging_options import named_judge
from quantgate.components.judging.kept_lines import KeptLines
from quantgate.components.judging.rubric import RubricCheck, judged_rubrics
from quantgate.components.run.artifacts import Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults

Place = tuple[str, int, int, str]
"""Flow, repeat, turn and the check in one line."""


def checked_all(
    flows: Mapping[str, Flow],
    exchanges: Sequence[FlowExchange],
    model: str,
    judge: Judge | None,
    advance: Callable[[int, int, str], None],
) -> list[FlowExchange]:
    """The model's exchanges with the outcome of each check; the judge decides the rubrics of all of them together.

    A rubric without a verdict has no score. Without a judge no flow may have a rubric.
    """
    asked = {
        place_of(exchange, turn, check): RubricCheck(flow, said(flow, exchange, turn), check.rubric, model)
        for exchange in exchanges
        for flow in (flows[exchange.flow],)
        for turn, check in flow.checks
        if check.rubric is not None
    }
    verdicts = judged_rubrics(judge, asked, advance) if judge is not None and asked else {}

    def decide(_flow: Flow, exchange: FlowExchange, turn: int, check: FlowCheck) -> tuple[bool | None, str]:
        verdict = verdicts[place_of(exchange, turn, check)]
        if verdict.failure:
            return None, f"no verdict of the judge: {verdict.failure}"
        return bool(verdict.verdict), "" if verdict.verdict else "the judge says that it does not meet the rubric"

    return [checked(flows[exchange.flow], exchange, decide if judge else None) for exchange in exchanges]


@contextmanager
def judge_of_run(serving: Server, plan: EvaluationPlan) -> Iterator[Judge | None]:
    """The judge of the plan, after the check that it is not this variant; None without one.

    Its judgements are stored with the variant's results, and a step that is tried again reads them.
    """
    options = named_judge(plan.judge, plan.judge_model, plan.judge_key)
    if options is None:
        yield None
        return
    stored = RunResults(plan.results).variant(serving.variant).judgements
    digest = serving.identity.weights if serving.identity else ""
    served = ServedModel(serving.served_name, address_of(serving.url), serving.model_path, digest)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kept"
        stored.get(file)
        try:
            yield Judge(options, [(serving.variant, served)], KeptLines(file))
        finally:
            if file.exists():
                stored.put(file)


def place_of(exchange: FlowExchange, turn: int, check: FlowCheck) -> Place:
    """The check's place among all."""
    return exchange.flow, exchange.repeat, turn, check.describe()


def said(flow: Flow, exchange: FlowExchange, turn: int) -> tuple[str, ...]:
    """The answers up to this turn, those that are given in the flow included; tool calls are shown as text."""
    return tuple(
        exchange.answers[number].describe()
        if flow.turns[number].assistant is None
        else flow.turns[number].assistant or ""
        for number in range(turn + 1)
    )
