"""A run whose variants are versions in the registry."""

from pathlib import Path

from mlflow.tracking import MlflowClient

from quantgate.components.models.digest import digest_of
from quantgate.components.promote.registry import Registered, register
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.location import open_store
from quantgate.components.track.mlflow_writer import track
from tests.support.decided import FACTS, digested, make_decision, report_files


def placed(decision: Decision) -> Decision:
    """The decision with a location for each variant's weights."""
    weights = tuple(
        weights.model_copy(update={"uri": f"s3://bucket/{weights.variant}"}) for weights in decision.weights
    )
    return decision.model_copy(update={"weights": weights})


def stored(folder: Path, weights: Weights) -> Weights:
    """The variant with a model in a store in `folder`, its address and its digest."""
    model = folder / "made" / weights.variant
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(weights.variant.encode())
    digest = digest_of(model)
    uri = open_store(str(folder / "store")).put_folder(model, f"models/{digest}", digest)
    return weights.model_copy(update={"uri": uri, "digest": digest})


def registered(
    tmp_path: Path, local: str, failed: str = "", run: str = "run-1", judged_at: float = 0.0, **verdicts: str
) -> Registered:
    """Register a run's variants; verdicts that are not named are those of tests/support/decided.py."""
    decision = placed(make_decision(tmp_path, failed=failed))
    changed = tuple(
        row.model_copy(update={"verdict": verdicts.get(row.variant.replace("-", "_"), row.verdict)})
        for row in decision.verdicts
    )
    decision = digested(decision.model_copy(update={"verdicts": changed}))
    facts = FACTS.model_copy(update={"run_id": run})
    return register(decision, track(decision, facts, report_files(tmp_path), local), local, judged_at)


def aliases(local: str, model: str) -> dict[str, str]:
    return {name: str(version) for name, version in MlflowClient(local).get_registered_model(model).aliases.items()}
