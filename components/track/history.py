"""Months of runs as one table: one row for each variant of each run in MLflow."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import VARIANTS
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.links import compare_page, full_address, run_page
from quantgate.components.tracking.tags import EXPERIMENTS
from quantgate.components.tracking.uris import SQLITE, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame  # type: ignore[import-untyped]

Item = TypeVar("Item")

PAGE = 1000
"""Results a request."""
FIRST = (
    "run",
    "time",
    "model",
    "suite",
    "use_case",
    "variant",
    "verdict",
    "size_bytes",
    "mean_score",
    "average_drop",
    "average_drop_lower",
    "average_drop_upper",
)
IN_ORDER = ("time", "model", "use_case", "run")
LAST = ("link", "run_id", "experiment_id")
_RUNS, _VARIANTS = "tags.verdicts != ''", "tags.verdict != ''"


def history(tracking_uri: str, where: str = "", experiments: str = f"{EXPERIMENTS}%") -> "DataFrame":
    """A row for each variant of each run, the oldest run first and the baseline first in each.

    The columns are FIRST (`time` is when the run was judged, in UTC; drops and bounds are shares), MLflow's other
    metrics by their names (`gsm8k.score`, `gsm8k.drop_upper`), and LAST; a number that was not measured is missing.
    `where` is a filter on the variants in MLflow's search syntax, e.g. `metrics.average_drop_upper < 0.02 and
    params.variant = 'int8'`; `experiments` is a pattern for the experiments' names, e.g. `quantgate/%/math-tutoring`.
    Variants of a deleted run are left out.

    Raises PrerequisiteError when MLflow cannot be reached or does not understand the search.
    """
    check_store(tracking_uri)
    with warnings.catch_warnings():  # MLflow brings tqdm, which warns in a notebook where ipywidgets is missing
        warnings.filterwarnings("ignore", "IProgress not found")
        from mlflow.exceptions import MlflowException
    from pandas import DataFrame

    with connected(tracking_uri, "list its runs") as client:
        try:
            ids = experiment_ids(client, experiments)
            runs = {run.info.run_id: run for run in search_runs(client, ids, _RUNS)}
            variants = search_runs(client, ids, f"{_VARIANTS} and {where}" if where.strip() else _VARIANTS)
        except MlflowException as refusal:
            if refusal.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise PrerequisiteError(
                f"MLflow does not understand the search {where or experiments!r}: {refusal.message}\n"
                "Write it as metrics.average_drop_upper < 0.02 and params.variant = 'int8'; there is no OR."
            ) from refusal
    rows = [
        row_of(variant, run, tracking_uri)
        for variant in variants
        if (run := runs.get(variant.data.tags.get("mlflow.parentRunId", "")))
    ]
    metrics = sorted({name for row in rows for name in row} - {*FIRST, *LAST})
    rows.sort(key=lambda row: (*(row[name] for name in IN_ORDER), place_of(str(row["variant"]))))
    return DataFrame(rows, columns=[*FIRST, *metrics, *LAST])


def place_of(variant: str) -> tuple[int, str]:
    """The variant's place in a table: the rows in their order, each followed by the same row with other seeds."""
    places = {name: place for place, name in enumerate(VARIANTS)}
    return places.get(variant.partition(".")[0], len(places)), variant


def newest(rows: "DataFrame") -> "DataFrame":
    """The last row of each variant in a table that `history` returned."""
    return rows.groupby(["model", "use_case", "variant"], sort=False).tail(1)


def check_store(tracking_uri: str) -> None:
    """Raise PrerequisiteError for a file that does not exist: MLflow would create it."""
    if tracking_uri.startswith(SQLITE) and not sqlite_file(tracking_uri).exists():
        raise PrerequisiteError(
            f"There is no {sqlite_file(tracking_uri)}. Name the store of a run, e.g. that of `make demo`: "
            "sqlite:///runs/demo/mlflow/mlflow.db, or an MLflow server."
        )


def pages(search: "Callable[[str | None], PagedList[Item]]") -> list[Item]:
    """All results of a search that returns them page by page."""
    page = search(None)
    result = list(page)
    while page.token:
        page = search(page.token)
        result += page
    return result


def experiment_ids(client: "MlflowClient", pattern: str) -> list[str]:
    """The ids of the experiments whose names match the pattern."""
    matching = f"name LIKE '{pattern}'"
    experiments = pages(
        lambda page: client.search_experiments(filter_string=matching, max_results=PAGE, page_token=page)
    )
    return [experiment.experiment_id for experiment in experiments]


def search_runs(client: "MlflowClient", experiment_ids: list[str], matching: str) -> "list[Run]":
    """The runs that the filter matches; an empty list without experiments."""
    if not experiment_ids:
        return []
    return pages(lambda page: client.search_runs(experiment_ids, matching, max_results=PAGE, page_token=page))


def row_of(variant: "Run", run: "Run", tracking_uri: str) -> dict[str, object]:
    """One variant's row."""
    from pandas import Timestamp

    return {
        "run": run.info.run_name,
        "time": Timestamp(run.info.end_time or run.info.start_time, unit="ms", tz="UTC"),
        **{name: run.data.params.get(name, "") for name in ("model", "suite", "use_case")},
        "variant": variant.data.params.get("variant", ""),
        "verdict": variant.data.tags.get("verdict", ""),
        **variant.data.metrics,
        "link": full_address(run_page(tracking_uri, variant.info.experiment_id, variant.info.run_id)),
        "run_id": variant.info.run_id,
        "experiment_id": variant.info.experiment_id,
    }


def comparison(tracking_uri: str, rows: "DataFrame") -> str:
    """The address of MLflow's page that shows these rows of a history side by side."""
    return full_address(compare_page(tracking_uri, rows["experiment_id"], rows["run_id"]))
