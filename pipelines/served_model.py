"""Test a model that is already served."""

from contextlib import closing, nullcontext

from components.benchmarks import selection
from components.benchmarks.suites import FULL
from components.errors import PrerequisiteError
from components.evaluate import estimates
from components.run.artifacts import Scores, Server
from components.run.plan import EvaluationPlan
from components.run.progress import Step
from components.run.results import VariantResults
from components.run.server_identity import ServerIdentity

MODEL = "model"
"""The variant's name in the results of `eval`."""


def score_server(server: Server, plan: EvaluationPlan, step: Step) -> Scores:
    """The server's scores; raises PrerequisiteError with the reason when the evaluation fails."""
    from components.evaluate.evaluation import evaluate
    from components.evaluate.ledger import Ledger, ledger_file
    from components.execute.scores import score_programs

    questions, records = selection.questions_of(plan), VariantResults(plan.results).records(FULL).path
    book = server.identity.describe() if server.identity and plan.ledger else ""
    with closing(Ledger(ledger_file(), book)) if book else nullcontext() as ledger:
        scores = evaluate(server, questions, FULL, step, records, ledger)
    if scores.failure:
        raise PrerequisiteError(scores.failure)
    if questions.suite.programs:
        scores = score_programs(scores, questions.suite, records, step, chat_template=plan.chat_template)
    return estimates.with_estimates(scores, plan, records)


def endpoint_server(endpoint: str, model: str, tokenizer: str, digest: str) -> Server:
    """The Server value of a running endpoint; raises PrerequisiteError when no usable server answers."""
    from components.servers.abilities import abilities
    from components.servers.client import Client

    client = Client(endpoint, model)
    server = abilities(client)
    identity = ServerIdentity(weights=digest, package="vLLM", version=server.version, place=client.root)
    return Server(
        variant=MODEL,
        url=f"{client.root}/v1",
        served_name=client.model,
        model_path=tokenizer_of(tokenizer or client.model),
        max_model_len=server.max_model_len,
        engine=identity.engine,
        identity=identity,
        log="at the server",
    )


def tokenizer_of(name: str) -> str:
    """The tokenizer's folder or hub name; raises PrerequisiteError when the tokenizer is unavailable."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PrerequisiteError(f"There is no tokenizer {name}: {reason} Give its folder with --tokenizer.") from error
    return name
