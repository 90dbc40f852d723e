"""The graph of the committed pipeline as Kubeflow's page shows it, drawn: docs/pictures/graph.svg.

`python -m tests.printed` draws it again. It has the steps, the loop, and each step's artifacts, by their display names.
"""

from html import escape
from pathlib import Path
from typing import Any

import yaml

from quantgate.pipelines.cluster import TASKS
from tests.support.drawn_pipeline import artifact_titles

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "pictures" / "graph.svg"
MARKED = {("report", "html"), ("gate", "metrics")}
"""What a reader of a run opens first."""
LOOP = "for-loop-1"
WIDTH, ROW, TOP, GAP = 900, 58, 24, 34
"""Of the picture, from a step to the next, above the first step, and more around the loop."""
LEFT, STEP, HEIGHT = 60, 250, 38
"""Of a step's box: its left edge, width and height."""
ARTIFACTS, ARTIFACT, COLUMN = 360, 226, 250
"""The left edge of the first column of artifacts, the width of a box, and from a column to the next."""
STYLE = (
    "text{font:14px sans-serif;fill:#202124}rect{fill:#fff;stroke:#9aa0a6;rx:6px}.step{stroke:#1a73e8}"
    ".marked{fill:#fef7e0;stroke:#e37400;stroke-width:2.5px}.loop{fill:#f1f3f4;stroke-dasharray:5}"
    "path{fill:none;stroke:#5f6368;stroke-width:1.5px}.out{stroke-dasharray:3}"
)
ARROWHEAD = (
    '<marker id="end" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto">'
    '<path d="M1 1l6 3-6 3"/></marker>'
)


def graph() -> str:
    """The picture as SVG."""
    pipeline = (ROOT / "manifests" / "pipeline.yaml").read_text(encoding="utf-8")
    spec: dict[str, Any] = next(yaml.safe_load_all(pipeline))
    outer, inner = spec["root"]["dag"]["tasks"], spec["components"][f"comp-{LOOP}"]["dag"]["tasks"]
    tops = heights_of(list(inner))
    first, last = min(tops[name] for name in inner), max(tops[name] for name in inner)
    rows = [
        box(LEFT - 40, first - GAP, WIDTH - 2 * (LEFT - 40), last - first + GAP + HEIGHT + 14, "loop"),
        text(LEFT - 30, first - 15, f"loop: {outer[LOOP]['taskInfo']['name']}"),
    ]
    for name, top in tops.items():
        title = (inner | outer)[name]["taskInfo"]["name"]
        rows += [box(LEFT, top, STEP, HEIGHT, "step"), text(LEFT + 12, top + 24, title)]
        waits = inner[name].get("dependentTasks", ["resolve"]) if name in inner else outer[name].get("dependentTasks")
        rows += arrow(top, [tops[before] for task in waits or [] for before in (inner if task == LOOP else [task])])
        rows += artifacts(top, {key: label for key, label in artifact_titles(spec).items() if key[0] == name})
    height = max(tops.values()) + HEIGHT + TOP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    style = f"<style>{STYLE}</style><defs>{ARROWHEAD}</defs>"
    return "\n".join([head, style, box(0, 0, WIDTH, height, ""), *rows, "</svg>\n"])


def heights_of(inner: list[str]) -> dict[str, int]:
    """The upper edge of each step's box, from the first step to the last."""
    after = max(TASKS.index(name) for name in inner)
    return {
        name: TOP + at * ROW + GAP * (1 if name in inner else 2 if at > after else 0) for at, name in enumerate(TASKS)
    }


def arrow(end: int, befores: list[int]) -> list[str]:
    """An arrow from the nearest of the steps that a step waits for: down, or around the steps between."""
    if not befores:
        return []
    start = max(befores) + HEIGHT
    is_next = end - start < ROW + GAP - HEIGHT + 1
    path = f"M{LEFT + 125} {start}V{end}" if is_next else f"M{LEFT} {start - 19}h-18V{end + 19}h18"
    return [f'<path marker-end="url(#end)" d="{path}"/>']


def artifacts(top: int, titles: dict[tuple[str, str], str]) -> list[str]:
    """The artifacts of a step, right of it."""
    rows = [f'<path class="out" d="M{LEFT + STEP} {top + 19}H{ARTIFACTS}"/>'] if titles else []
    for column, (key, title) in enumerate(titles.items()):
        left = ARTIFACTS + column * COLUMN
        rows += [box(left, top, ARTIFACT, HEIGHT, "marked" if key in MARKED else ""), text(left + 12, top + 24, title)]
    return rows


def box(left: int, top: int, width: int, height: int, kind: str) -> str:
    """A rectangle of that class."""
    return f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{height}"/>'


def text(left: int, base: int, words: str) -> str:
    """A line of text."""
    return f'<text x="{left}" y="{base}">{escape(words)}</text>'
