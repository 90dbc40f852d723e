"""Test a model that is already served."""

from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from components.benchmarks import selection
from components.benchmarks.suites import FULL
from components.errors import PrerequisiteError
from components.evaluate import estimates
from components.run.artifacts import Scores, Server
from components.run.plan import EvaluationPlan
from components.run.progress import Step
from components.run.results import VariantResults

if TYPE_CHECKING:
    pass


MODEL = "model"
"""The variant's name in the results of `eval`."""


def tested(served: Server, plan: EvaluationPlan, step: Step) -> Scores:
    """What the server scores; raises PrerequisiteError with the reason when it fails."""
    from components.evaluate.evaluation import evaluate as ask
    from components.evaluate.ledger import Ledger, ledger_file
    from components.execute.scores import scored

    asked, records = selection.questions_of(plan), VariantResults(plan.results).records(FULL).path
    with closing(Ledger(ledger_file(), served.identity)) if plan.ledger else nullcontext() as ledger:
        found = ask(served, asked, FULL, step, records, ledger)
    if found.failure:
        raise PrerequisiteError(found.failure)
    if asked.suite.programs:
        found = scored(found, asked.suite, records, step, chat_template=plan.chat_template)
    return estimates.with_estimates(found, plan, records)


def endpoint_server(endpoint: str, model: str, tokenizer: str, digest: str) -> Server:
    """The server as the evaluation wants to know it; raises PrerequisiteError when nothing usable answers."""
    from components.servers.abilities import abilities
    from components.servers.client import Client

    client = Client(endpoint, model)
    found = abilities(client)
    name = f"{digest} on vLLM {found.version}, {client.root}"
    return Server(
        variant=MODEL,
        url=f"{client.root}/v1",
        served_name=client.model,
        model_path=tokenizer_of(tokenizer or client.model),
        max_model_len=found.max_model_len,
        engine=f"vLLM {found.version}",
        identity=name,
        log="at the server",
    )


def tokenizer_of(name: str) -> str:
    """The tokenizer's folder or hub name; raises PrerequisiteError when it cannot be had."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise PrerequisiteError(f"There is no tokenizer {name}: {what} Name its folder with --tokenizer.") from error
    return name
