"""Move `champion` and `previous` together: what is intended is written first, so that the next call can finish it.

MLflow sets one alias a request and has no condition on a write. So a move is a record in a tag of the registered model:

    1. write the record, then read the model again: another mover in between is noticed before an alias moves
    2. set champion, then previous
    3. read the record again: if it is still this mover's, mark it done; if another mover took over, restore what that
       mover set, and raise

A record that is not marked done is a move that was killed or still runs. The next mover finishes it if the champion was
moved, and drops it otherwise.
"""

import time
import uuid
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous"
MOVE = "quantgate.move"
FORCED = "quantgate.forced"


class Serving(Artifact):
    """The versions that the two aliases name; empty for an alias that names none."""

    champion: str = ""
    previous: str = ""


class Move(Artifact):
    """One move of the aliases, intended or done."""

    id: str
    before: Serving
    after: Serving
    forced: str = ""
    """The reason for a promotion against the verdict, for the version's tag; empty without one."""
    at: float
    done: bool = False


def settled(client: "MlflowClient", model: str) -> Serving:
    """The versions that the aliases name, after an unfinished move is finished or dropped."""
    registered = client.get_registered_model(model)
    unfinished, serving = recorded(registered), serving_of(registered)
    if not unfinished or unfinished.done:
        return serving
    if serving.champion == unfinished.after.champion:
        apply(client, model, unfinished)
        write(client, model, unfinished.model_copy(update={"done": True}))
        return unfinished.after
    client.delete_registered_model_tag(model, MOVE)
    return serving


def move(client: "MlflowClient", model: str, before: Serving, after: Serving, forced: str = "") -> None:
    """Make the aliases name the versions `after`; raises PrerequisiteError if they are no longer `before`.

    Nothing is written if they name those versions already.
    """
    if before == after:
        return
    intended = Move(id=uuid.uuid4().hex, before=before, after=after, forced=forced, at=time.time())
    write(client, model, intended)
    registered = client.get_registered_model(model)
    if recorded(registered) != intended or serving_of(registered) != before:
        if recorded(registered) == intended:
            client.delete_registered_model_tag(model, MOVE)
        raise competing(model, serving_of(registered))
    apply(client, model, intended)
    latest = recorded(client.get_registered_model(model))
    if latest and latest.id != intended.id:
        apply(client, model, latest)
        raise competing(model, latest.after)
    write(client, model, intended.model_copy(update={"done": True}))


def apply(client: "MlflowClient", model: str, move: Move) -> None:
    """Set the aliases, the champion first: it decides whether an unfinished move is finished."""
    client.set_registered_model_alias(model, CHAMPION, move.after.champion)
    if move.forced:
        client.set_model_version_tag(model, move.after.champion, FORCED, move.forced)
    if move.after.previous:
        client.set_registered_model_alias(model, PREVIOUS, move.after.previous)


def write(client: "MlflowClient", model: str, move: Move) -> None:
    """Write the record."""
    client.set_registered_model_tag(model, MOVE, move.model_dump_json())


def recorded(registered: "RegisteredModel") -> Move | None:
    """The record of the last move; None if there is none that this version can read."""
    try:
        return Move.model_validate_json(registered.tags.get(MOVE, ""))
    except ValidationError:
        return None


def serving_of(registered: "RegisteredModel") -> Serving:
    """The versions that the model's aliases name."""
    aliases = registered.aliases
    return Serving(champion=str(aliases.get(CHAMPION, "")), previous=str(aliases.get(PREVIOUS, "")))


def competing(model: str, serving: Serving) -> PrerequisiteError:
    """The error for another promotion or rollback at the same time."""
    return PrerequisiteError(
        f"Another promotion or rollback of {model} ran at the same time. Its champion is version"
        f" {serving.champion or '(none)'} and the previous one {serving.previous or '(none)'}. If that is not what you"
        " want, repeat the command."
    )
