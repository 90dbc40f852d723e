"""The report in a real Chromium, at the width of a phone and of a desktop."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import TypedDict

import pytest

from quantgate.components.report.pages import write_report
from quantgate.components.run.verdicts import Decision
from tests.support.reported import MEASURED, SEVEN_LONG_NAMES, make_decision

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--allow-file-access-from-files", "--virtual-time-budget=5000"),
)
# A browser window cannot be as narrow as a phone, so a frame of the wanted width shows the page.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="seen"></pre>
<iframe src="report.html" style="border:0;width:{width}px;height:2000px"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, box = page.querySelector(".box");
  const place = element => (({{left, right, width}}) => ({{left, right, width}}))(element.getBoundingClientRect());
  const rulings = [...page.querySelectorAll(".matrix .ruling")];
  document.getElementById("seen").textContent = JSON.stringify({{
    scroll_width: page.documentElement.scrollWidth,
    verdicts: rulings.map(ruling => ruling.innerText.trim().split(/\\s+/).slice(-1)[0]),
    places: rulings.map(ruling => place(ruling.querySelector(".verdict"))),
    box: place(box),
    scrolls_in_box: getComputedStyle(box).overflowX === "auto",
    box_scroll_width: box.scrollWidth - box.clientWidth,
    plots: [...page.querySelectorAll(".plot")].map(place),
    requests: page.defaultView.performance.getEntriesByType("resource").length,
  }});
}};
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: `apt-get install chromium` brings one"),
]


class Place(TypedDict):
    left: float
    right: float
    width: float


class Seen(TypedDict):
    """What the browser measured, in CSS pixels."""

    scroll_width: float
    verdicts: list[str]
    places: list[Place]
    box: Place
    scrolls_in_box: bool
    box_scroll_width: float
    plots: list[Place]
    requests: int


def seen_at(width: int, decision: Decision, folder: Path) -> Seen:
    write_report(decision, folder, run="run-7")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,2100"]
    ran = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    json_text = re.search(r'<pre id="seen">(.+?)</pre>', ran.stdout, re.DOTALL)
    assert json_text, f"chromium showed no measurements (exit {ran.returncode}): {ran.stderr[-2000:]}"
    seen: Seen = json.loads(unescape(json_text.group(1)))
    return seen


def seven_tasks() -> Decision:
    return make_decision(
        {name: dict.fromkeys(SEVEN_LONG_NAMES, score) for name, score in (("bf16", 0.5), ("int8", 0.49))}
    )


@pytest.mark.parametrize("decision", [make_decision(), seven_tasks()], ids=["three tasks", "seven long names"])
def test_on_a_phone_nothing_is_wider_than_the_page_and_each_verdict_is_seen(decision: Decision, tmp_path: Path) -> None:
    seen = seen_at(390, decision, tmp_path)
    assert seen["scroll_width"] <= 390
    assert seen["box_scroll_width"] == 0
    assert seen["verdicts"] == [row.verdict for row in decision.verdicts]
    assert all(place["left"] >= 0 and place["right"] <= 390 and place["width"] > 0 for place in seen["places"])
    assert all(300 < plot["width"] <= 390 for plot in seen["plots"])
    assert len(seen["plots"]) == 2


def test_on_a_desk_seven_tasks_scroll_inside_their_box_beside_the_verdict(tmp_path: Path) -> None:
    seen = seen_at(1280, seven_tasks(), tmp_path)
    assert seen["scroll_width"] <= 1280
    assert seen["scrolls_in_box"]
    assert seen["box_scroll_width"] > 0
    assert all(place["right"] < seen["box"]["right"] for place in seen["places"])


def test_on_a_desk_three_tasks_need_no_scrolling(tmp_path: Path) -> None:
    seen = seen_at(1280, make_decision(MEASURED), tmp_path)
    assert (seen["scroll_width"], seen["box_scroll_width"], seen["requests"]) == (1280, 0, 0)
