"""MLflow's page that compares the variants of a run, in a real Chromium."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from quantgate.components.track.mlflow_writer import track
from tests.support.decided import FACTS, SCORES, VERDICTS, called, make_decision, report_files

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: `apt-get install chromium` brings one"),
]


def page_at(url: str, folder: Path) -> str:
    """The page's HTML after its scripts have run."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=1800,2000"]
    ran = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=240)
    assert "</html>" in ran.stdout, f"chromium showed no page (exit {ran.returncode}): {ran.stderr[-2000:]}"
    return ran.stdout


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


def rows_of(page: str) -> dict[str, list[str]]:
    """The rows of the tables of details, parameters and tags: the cells by the row's head."""
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    cells = [[words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]
    return {head: rest for head, *rest in cells}


def metrics_of(page: str) -> dict[str, list[str]]:
    """The metrics' rows from left to right; the page positions their cells individually."""
    place = r"<div [^>]*left: (\d+)px; position: absolute; top: (\d+)px; [^>]*>(.*?)</div>"
    cells = [(int(top), int(left), inner) for left, top, inner in re.findall(place, page)]
    names = {top: words(inner) for top, _, inner in cells if 'title="Plot chart"' in inner}
    values: dict[str, list[str]] = {name: [] for name in names.values()}
    for top, _, inner in sorted(cells):
        if top in names and 'title="Plot chart"' not in inner:
            values[names[top]].append(words(inner))
    return values


def test_mlflows_page_shows_the_variants_side_by_side_by_their_names(mlflow_server: str, tmp_path: Path) -> None:
    decision = called(make_decision(tmp_path), "compared")
    tracked = track(decision, FACTS, report_files(tmp_path), mlflow_server)
    page = page_at(tracked.compare_page, tmp_path)
    rows, metrics = rows_of(page), metrics_of(page)

    assert "Comparing 4 Runs from 1 Experiment" in words(page)
    assert rows["Run Name:"] == ["bf16", "int8", "int4-g128", "int4-g64"]
    assert rows["Run ID:"] == list(tracked.children.values())
    assert rows["variant"] == ["bf16", "int8", "int4-g128", "int4-g64"]
    assert rows["scheme"] == ["BF16", "W4A16", "W4A16", "W4A16"]
    assert rows["group_size"] == ["none", "none", "128", "64"]
    assert rows["verdict"] == list(VERDICTS.values())
    assert metrics["hellaswag.score"] == [f"{scores['hellaswag']:.3g}" for scores in SCORES.values()]
    assert metrics["average_drop"] == ["0", "0.01", "0.04", "0.15"]
    assert metrics["size_ratio"] == ["1", "0.6", "0.45", "0.4"]
