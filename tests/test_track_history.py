"""Half a year of runs in MLflow as one table, and the figures drawn from it."""

import datetime
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.figures import drop_against_size, drop_over_time
from quantgate.components.report.matrix import MARKS
from quantgate.components.track import history as tracked
from quantgate.components.track.history import comparison, history, newest
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFiles
from quantgate.components.tracking.uris import local_tracking_uri
from tests.support.decided import FACTS, make_decision
from tests.support.executed import is_drawn
from tests.support.months import FAILED_WEEK, FIRST_DAY, HALF_WIDTH, LOST_WEEK, SIZES, WEEKS, drop_of, fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(tmp_path_factory.getbasetemp() / "months")


def test_each_variant_of_each_run_is_a_row_ordered_by_time(store: str) -> None:
    rows = history(store, experiments="quantgate/%/general-chat")
    assert len(rows) == 4 * WEEKS
    assert list(rows["run"]) == [f"week {week}" for week in range(WEEKS) for _ in range(4)]
    assert list(rows["variant"][:4]) == ["bf16", "int8", "int4-g128", "int4-g64"]
    assert rows["time"].iloc[0].to_pydatetime() == FIRST_DAY
    assert rows["time"].iloc[-1].to_pydatetime() == FIRST_DAY + datetime.timedelta(weeks=WEEKS - 1)
    assert set(rows["model"]) == {"hf:org/model"}
    assert set(rows["suite"]) == {"quick"}


def test_a_row_has_the_verdict_the_size_the_drop_its_bounds_and_the_scores(store: str) -> None:
    rows = history(store)
    row = rows[(rows["run"] == "week 3") & (rows["variant"] == "int8")].iloc[0]
    drop = drop_of("int8", 3)
    assert row["verdict"] == "ship"
    assert row["size_bytes"] == SIZES["int8"]
    assert row["average_drop"] == pytest.approx(drop)
    assert row["average_drop_lower"] == pytest.approx(drop - HALF_WIDTH)
    assert row["average_drop_upper"] == row["piqa.drop_upper"] == pytest.approx(drop + HALF_WIDTH)
    assert (row["hellaswag.score"], row["piqa.score"]) == (0.39, 0.60)


def test_unmeasured_values_are_missing_and_the_baselines_drop_is_zero(store: str) -> None:
    rows = history(store, experiments="quantgate/%/general-chat")
    failed = rows[rows["verdict"] == "failed"]
    assert list(failed["run"]) == [f"week {FAILED_WEEK}"]
    assert failed[["average_drop", "average_drop_upper", "mean_score", "piqa.score"]].isna().all(axis=None)
    baseline = rows[rows["verdict"] == "reference"]
    assert set(baseline["average_drop"]) == {0.0}
    assert baseline["average_drop_upper"].isna().all()


def test_the_table_is_the_same_for_any_number_of_result_pages(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = history(store)
    assert len(at_once) > 100
    monkeypatch.setattr(tracked, "PAGE", 9)
    assert history(store).equals(at_once)


@pytest.mark.parametrize(
    ("where", "variants"),
    [
        ("metrics.average_drop_upper < 0.02", {"int8", "int4-g64"}),
        ("metrics.piqa.drop_upper < 0.02 and params.variant = 'int8'", {"int8"}),
        ("tags.verdict = 'reject'", {"int4-g128"}),
        ("metrics.size_ratio < 0.0001", set()),
    ],
)
def test_a_search_uses_mlflows_filter_syntax(store: str, where: str, variants: set[str]) -> None:
    rows = history(store, where)
    assert set(rows["variant"]) == variants
    assert list(rows.columns)[:3] == ["run", "time", "model"]
    assert len(rows) < len(history(store))


@pytest.mark.parametrize("where", ["int8", "metrics.mean_score <", "tags.verdict = 'ship' or tags.verdict = 'reject'"])
def test_a_search_with_wrong_syntax_is_refused_with_an_example(store: str, where: str) -> None:
    with pytest.raises(PrerequisiteError, match=rf"does not understand the search '?\"?{re.escape(where[:10])}"):
        history(store, where)


def test_links_equal_those_that_a_run_prints(tmp_path: Path) -> None:
    uri = local_tracking_uri(tmp_path)
    tracked = track(make_decision(tmp_path), FACTS, RunFiles(), uri)
    rows = history(uri)
    assert list(rows["run_id"]) == list(tracked.children.values())
    page = "http://127.0.0.1:5000/" + tracked.page
    assert list(rows["link"]) == [page.replace(tracked.run_id, child) for child in tracked.children.values()]
    assert comparison(uri, rows) == "http://127.0.0.1:5000/" + tracked.compare_page
    served = comparison("https://me:secret@mlflow.example/", rows)
    assert served == "https://***@mlflow.example/" + tracked.compare_page


def test_the_newest_row_of_each_variant_is_that_of_its_last_run(store: str) -> None:
    rows = newest(history(store))
    shown = {(use_case, run) for use_case, run in zip(rows["use_case"], rows["run"], strict=True)}
    assert shown == {("general-chat", "week 25"), ("math-tutoring", "week 24")}
    assert len(rows) == 8


def test_the_variants_of_a_deleted_run_are_left_out(tmp_path: Path) -> None:
    uri = local_tracking_uri(tmp_path)
    one, other = (
        track(make_decision(tmp_path), FACTS.model_copy(update={"run_id": name, "name": name}), RunFiles(), uri)
        for name in ("one", "other")
    )
    MlflowClient(uri).delete_run(one.run_id)
    assert list(history(uri)["run_id"]) == list(other.children.values())


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"There is no .*mlflow\.db"):
        history(f"sqlite:///{tmp_path}/none/mlflow.db")
    assert not (tmp_path / "none").exists()


def test_a_store_without_runs_is_an_empty_table(tmp_path: Path) -> None:
    uri = local_tracking_uri(tmp_path)
    MlflowClient(uri).search_experiments()
    rows = history(uri)
    assert rows.empty
    assert list(rows.columns) == [*tracked.FIRST, *tracked.LAST]
    with pytest.raises(PrerequisiteError, match="No variant in this table has a drop"):
        drop_against_size(rows)


def png_of(figure: Figure) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def labels(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [label.get_text() for label in legend.get_texts()]


def test_drop_against_size_has_a_marker_for_each_verdict(store: str) -> None:
    rows = history(store, experiments="quantgate/%/general-chat")
    figure = drop_against_size(rows, 0.05)
    axes: Any = figure.axes[0]
    marks = [mark for mark in MARKS.values() if mark.verdict in set(rows["verdict"]) - {"reference", "failed"}]
    assert [mark.verdict for mark in marks] == ["ship", "monitor", "ab_test", "inconclusive", "reject"]
    assert labels(figure) == [mark.label for mark in marks]
    drawn = {str(points.get_label()): points for points in axes.collections}
    judged = rows[~rows["verdict"].isin(["reference", "failed"])]
    assert {label: len(points.get_offsets()) for label, points in drawn.items()} == {
        mark.label: int((judged["verdict"] == mark.verdict).sum()) for mark in marks
    }
    shapes = {points.get_paths()[0].vertices.tobytes() for points in axes.collections}
    colours = {tuple(points.get_facecolor()[0]) for points in axes.collections}
    assert len(shapes) == len(colours) == len(marks)
    assert [label.get_text() for label in axes.texts] == ["int4-g128", "int4-g64", "int8", "limit 5.0 %"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("size of the weights in GB", "average drop (below 0: better)")
    assert is_drawn(png_of(figure))


def test_drop_over_time_has_a_panel_per_variant_with_its_bounds(store: str) -> None:
    figure = drop_over_time(history(store, experiments="quantgate/%/general-chat"), 0.05)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["int8", "int4-g128", "int4-g64"]
    panels: list[Any] = figure.axes
    bounds = [axes.collections[0].get_segments() for axes in panels]
    assert [len(series) for series in bounds] == [WEEKS, WEEKS, WEEKS - 1]
    for week in (0, LOST_WEEK):
        low, high = bounds[1][week][:, 1]
        assert (low + high) / 2 == pytest.approx(drop_of("int4-g128", week))
        assert high - low == pytest.approx(2 * HALF_WIDTH)
    assert labels(figure) == ["ship", "monitor", "A/B test", "inconclusive", "reject"]
    assert is_drawn(png_of(figure))
