"""Test a model that is already served."""

from contextlib import closing, nullcontext
from pathlib import Path

from quantgate.components.benchmarks import selection
from quantgate.components.benchmarks.suites import FULL
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate import estimates
from quantgate.components.models.window import UNKNOWN
from quantgate.components.policies.policy import chosen
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.run.results import VariantResults
from quantgate.components.run.server_identity import ServerIdentity

MODEL = "model"
"""The variant's name in the results of `eval`."""


def score_server(server: Server, plan: EvaluationPlan, step: Step) -> Scores:
    """The server's scores; raises PrerequisiteError with the reason when the evaluation fails."""
    from quantgate.components.evaluate.evaluation import Earlier, Evaluation
    from quantgate.components.evaluate.ledger import Ledger, ledger_file
    from quantgate.components.execute.scores import score_programs

    questions, records = selection.questions_of(plan), VariantResults(plan.results).records(FULL).path
    book = server.identity.describe() if server.identity and plan.ledger else ""
    with closing(Ledger(ledger_file(), book)) if book else nullcontext() as ledger:
        scores = Evaluation(server, questions, FULL, step).run(records, Earlier(ledger))
    if scores.failure:
        raise PrerequisiteError(scores.failure)
    if questions.suite.programs:
        scores = score_programs(scores, questions.suite, records, step, chat_template=plan.chat_template)
    return estimates.with_estimates(scores, plan, records)


def prepared_plan(server: Server, plan: EvaluationPlan, step: Step) -> EvaluationPlan:
    """The plan with its rows and its prompts, for the window that the server has."""
    from quantgate.components.benchmarks.encoder import Encoder
    from quantgate.components.benchmarks.prompts import Preparation
    from quantgate.components.resolve import checks, prepared_prompts, rows

    plan = plan.model_copy(update={"limits": chosen(plan.use_case)})  # it says what happens to items that are too long
    plan, tasks = rows.prepared_tasks(plan, step, Path(server.model_path))
    checks.check_generated(plan, tasks)
    preparation = Preparation(Encoder.load(server.model_path), server.max_model_len or UNKNOWN, plan.chat_template)
    return prepared_prompts.with_prompts(plan, tasks, preparation, step)


def endpoint_server(endpoint: str, model: str, tokenizer: str, digest: str) -> Server:
    """The Server value of a running endpoint; raises PrerequisiteError when no usable server answers."""
    from quantgate.components.servers.abilities import abilities
    from quantgate.components.servers.client import Client

    client = Client(endpoint, model)
    server = abilities(client)
    identity = ServerIdentity(weights=digest, package=server.package, version=server.version, place=client.root)
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
