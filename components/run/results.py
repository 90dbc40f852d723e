"""Where a run's results lie."""

from pathlib import Path

from components.errors import PrerequisiteError
from components.run.artifacts import Weights
from components.storage.location import open_store


def of_run(results: str, run_id: str) -> str:
    """Where a run keeps its results: in the folder itself, of a bucket below the prefix under the run's own id."""
    return f"{results.rstrip('/')}/{run_id}" if "://" in results else results


def hand_on_judged(name: str, results: str, to: str) -> None:
    """Hand on what `judged_before` left in the results: decision.json, or tracked.json."""
    store = open_store(results)
    if not store.get_file(f"judged/{name}", Path(to)):
        raise PrerequisiteError(f"The earlier {name} is missing from {results}: run it again.")
    store.put_file(Path(to), name)


def kept_weights(variant: str, results: str) -> Weights | None:
    """The variant's weights as the results keep them."""
    text = open_store(results).get_text(f"variants/{variant}/weights.json")
    return Weights.model_validate_json(text) if text else None


def kept_records(variant: str, stage: str, results: str, scratch: Path) -> Path:
    """The file of a stage's records, in `scratch`; raises PrerequisiteError when the results have none."""
    name, file = f"variants/{variant}/{stage}.parquet", scratch / f"{stage}.parquet"
    if not open_store(results).get_file(name, file):
        raise PrerequisiteError(f"{name} is missing from {results}: evaluate {variant} again.")
    return file
