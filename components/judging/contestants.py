"""The models whose replies are judged: a server, a run's variant that is being served, or a file of saved replies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import lines_of
from quantgate.components.judging.judge_identity import ServedModel, served_model
from quantgate.components.run.results import VariantResults
from quantgate.components.servers import access
from quantgate.components.servers.client import Client, client_of

BASELINE = "baseline"
KEY_ADVICE = "Set $OPENAI_API_KEY to the server's API key."


@dataclass(frozen=True)
class Contestant:
    """One model whose replies are judged."""

    name: str
    """Its name in the results, e.g. `baseline` or `int8`."""
    served: ServedModel
    client: Client | None = None
    """Asks its server; None for saved replies."""
    saved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The saved replies, a turn each, by the question's id."""


def contestant(given: str, model: str, fallback: str, concurrency: int) -> Contestant:
    """The model that `[NAME=]WHERE` names; raises PrerequisiteError where there is none.

    WHERE is the base URL of an API, a JSONL file of replies, or the folder of a run's variant while it is served.
    Without NAME it is called `fallback`.
    """
    name, equals, where = given.partition("=")
    if not equals or any(mark in name for mark in ":/"):
        name, where = fallback, given
    if where.startswith(("http://", "https://")):
        client = Client(where, model, concurrency)
        return Contestant(name, served_model(client, KEY_ADVICE), client)
    place = Path(where.removeprefix("file:"))
    try:
        if place.is_dir():
            return _of_run(name, place, concurrency)
        is_file = place.is_file()
    except OSError as error:
        raise PrerequisiteError(f"{where} cannot be read: {error.strerror}.") from None
    if not is_file:
        raise PrerequisiteError(
            f"{where} is neither a server's URL (http://…/v1), nor a file of replies, nor the folder of a run's "
            "variant (runs/NAME/variants/VARIANT)."
        )
    return _of_file(name, place)


def _of_run(name: str, folder: Path, concurrency: int) -> Contestant:
    from quantgate.components.run.artifacts import Server

    server = VariantResults(str(folder)).server.read(Server)
    if server is None or server.failure or not server.url:
        why = f"its server failed: {server.failure}" if server and server.failure else "it has no server.json"
        raise PrerequisiteError(
            f"{folder} is not a variant that is served: {why}. Name a folder runs/NAME/variants/VARIANT."
        )
    client = client_of(server)
    client.concurrency = min(client.concurrency, concurrency)
    try:
        served = served_model(client, access.key_hint(access.REFUSED[0]))
    except PrerequisiteError as error:
        raise PrerequisiteError(f"The server of {folder} has ended; a run stops its servers. {error}") from error
    digest = server.identity.weights if server.identity else served.digest
    return Contestant(name, replace(served, digest=digest), client)


def _of_file(name: str, file: Path) -> Contestant:
    """Replies in FastChat's form of model answers, which `quantgate judge` writes too."""
    saved: dict[str, tuple[str, ...]] = {}
    rows = lines_of(file)
    for line, row in rows:
        try:
            turns = row["choices"][0]["turns"]
            question = str(row["question_id"])
        except (KeyError, IndexError, TypeError):
            turns = question = None
        if not question or not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise PrerequisiteError(
                f"{file}, line {line}: a reply has question_id, model_id and choices[0].turns, a list of texts, as "
                "FastChat writes them. Correct the file."
            )
        if question in saved:
            raise PrerequisiteError(f"{file}, line {line}: question {question} is there twice. Keep one reply.")
        saved[question] = tuple(turns)
    if not rows:
        raise PrerequisiteError(f"{file} has no replies.")
    models = {(str(row.get("model_id") or file.stem), str(row.get("digest") or "")) for _, row in rows}
    if len(models) != 1:
        raise PrerequisiteError(f"{file} has replies of {len(models)} models. Put each model's into a file of its own.")
    ((model, digest),) = models
    return Contestant(name, ServedModel(model, digest=digest), saved=saved)


def contestants(
    baseline: str, variants: Sequence[str], models: Sequence[str], concurrency: int
) -> tuple[Contestant, ...]:
    """The baseline, then the variants; `models` are the served names, one each, or none.

    Raises PrerequisiteError for two of one name, and for a variant that is the baseline's server.
    """
    given = [baseline, *variants]
    if models and len(models) != len(given):
        raise PrerequisiteError(
            f"There are {len(given)} models and {len(models)} --model. Give one each, the baseline's first, or none."
        )
    fallbacks = (
        [BASELINE, "variant"] if len(given) == 2 else [BASELINE, *(f"variant-{n}" for n in range(1, len(given)))]
    )
    named = [
        contestant(where, model, fallback, concurrency)
        for where, model, fallback in zip(given, models or [""] * len(given), fallbacks, strict=True)
    ]
    twice = [name for name, count in Counter(one.name for one in named).items() if count > 1]
    if twice:
        raise PrerequisiteError(f"Two models are called {twice[0]}. Name them: --variant NAME=URL.")
    places = Counter((one.served.address, one.served.model) for one in named if one.client)
    if any(count > 1 for count in places.values()):
        raise PrerequisiteError("Two of the models are the same model of the same server. Name another server.")
    return tuple(named)
