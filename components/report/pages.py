"""The report as a single self-contained HTML file, and the same content as Markdown."""

import re
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from quantgate.components.report import formats
from quantgate.components.report.answer_lengths import answer_lengths
from quantgate.components.report.flow_table import broken_flows, flow_notes, flow_rows, other_examples
from quantgate.components.report.forest import forest_plot
from quantgate.components.report.front import FRONT_HEADINGS, FRONT_LEGEND, front_plot, front_texts
from quantgate.components.report.load_plot import load_plot
from quantgate.components.report.load_table import HEADINGS, LEGEND, load_rows, without_speed
from quantgate.components.report.matrix import headline, matrix, tasks_of
from quantgate.components.report.plots import drop_plot, legend_marker, size_plot
from quantgate.components.report.published_table import PUBLISHED_COLUMNS, published_notes, published_rows
from quantgate.components.report.screen import screen
from quantgate.components.report.stated_limits import bounds, stated_limits
from quantgate.components.report.story import certainty, command, measured, noisiest, prompt_settings, sources, stories
from quantgate.components.report.svg import standing_alone
from quantgate.components.run.artifacts import is_flow_task
from quantgate.components.run.results import PLOTS, RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.artifact import write_text
from quantgate.components.storage.page_templates import templates_of


def write_report(
    decision: Decision, folder: Path, *, run: str = "", mlflow_hint: str = "", engine: str = ""
) -> tuple[Path, Path]:
    """Write the report into the folder, as HTML and as Markdown, and return their paths.

    `run` is the name of the run, `mlflow_hint` says where MLflow recorded it, and `engine` is the engine that served
    the models. The report omits those that are empty.
    """
    results = RunResults(str(folder))
    html, markdown = results.report.path, results.report_markdown.path
    facts = report_facts(decision) | {"run": run, "mlflow_hint": mlflow_hint, "engine": engine}
    write_text(html, environment(decision, autoescape=True).get_template("report.html.j2").render(facts))
    write_text(markdown, environment(decision, autoescape=False).get_template("report.md.j2").render(facts))
    return html, markdown


def pull_request(decision: Decision) -> str:
    """The decision matrix with each variant's reason, as Markdown that is short enough for a pull request."""
    return environment(decision, autoescape=False).get_template("pull_request.md.j2").render(report_facts(decision))


def plots(decision: Decision) -> dict[str, str]:
    """The report's plots as separate SVG files: the content by file name, without the empty plots."""
    rows = matrix(decision)
    drawings = dict(
        zip(
            PLOTS,
            (
                size_plot(rows),
                drop_plot(rows, stated_limits(decision.limits)),
                forest_plot(decision),
                load_plot(decision),
                front_plot(decision),
            ),
            strict=True,
        )
    )
    style = environment(decision, autoescape=False).get_template("plot.css.j2").render()
    return {name: standing_alone(drawing, style) for name, drawing in drawings.items() if drawing}


def in_markdown(value: object) -> object:
    """The value as a single line of Markdown text; characters that are Markdown or HTML syntax are escaped."""
    if isinstance(value, Markup):
        return value
    line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|~\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def in_code(text: str) -> Markup:
    """The text as a Markdown code span for a line or a table cell; the fence is longer than any backticks inside."""
    line = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return Markup(f"{fence}{pad}{line}{pad}{fence}")  # noqa: S704 (Markdown: nothing in a code span is read as HTML)


def in_block(text: str) -> Markup:
    """The text as a Markdown code block, with its line breaks."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}text\n{text}\n{fence}")  # noqa: S704 (as in a code span)


def with_breaks(name: str) -> Markup:
    """A task's name with a permitted line break after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def as_prose(sentence: str) -> str:
    """The sentence with a non-breaking space between each number and its % sign."""
    return re.sub(r"(?<=\d) %", "\u00a0%", sentence)


def report_facts(decision: Decision) -> dict[str, object]:
    """What the templates show of a decision, by the names that they use."""
    rows = matrix(decision)
    return {
        "decision": decision,
        "headline": headline(decision),
        "tasks": tasks_of(decision),
        "rows": rows,
        "signs": {row.variant: legend_marker(index) for index, row in enumerate(rows)},
        "stories": stories(decision),
        "measured": measured(decision),
        "noisiest": noisiest(decision),
        "prompt_settings": prompt_settings(decision),
        "sources": sources(decision),
        "command": command(decision),
        "certainty": certainty(decision),
        "screen": screen(decision),
        "published_columns": PUBLISHED_COLUMNS,
        "published_rows": published_rows(decision),
        "published_notes": published_notes(decision),
        "judged": [verdict for verdict in decision.verdicts if verdict.form == "evidence"],
        "answer_lengths": answer_lengths(decision),
        "flow_rows": flow_rows(decision),
        "flow_notes": flow_notes(decision),
        "broken_flows": broken_flows(decision),
        "examples": other_examples(decision),
        "load_rows": load_rows(decision),
        "load_headings": HEADINGS,
        "load_legend": LEGEND,
        "without_speed": without_speed(decision),
        "load_plot": load_plot(decision),
        "front": front_texts(decision),
        "front_headings": FRONT_HEADINGS,
        "front_legend": FRONT_LEGEND,
        "front_plot": front_plot(decision),
        "size_plot": size_plot(rows),
        "forest_plot": forest_plot(decision),
        "drop_plot": drop_plot(rows, stated_limits(decision.limits)),
    }


def environment(decision: Decision, *, autoescape: bool) -> Environment:
    """The templates of this folder, with the filters for numbers and texts."""
    environment = templates_of("report", autoescape=autoescape, finalize=None if autoescape else in_markdown)
    edges, unit = bounds(decision.limits, tasks_of(decision)), formats.unit_of(decision.relative)
    environment.filters |= {
        "percent": lambda drop, subject: formats.percent_text(drop, edges[subject], unit),
        "drop": lambda drop: formats.percent_text(drop, unit=unit),
        "share": formats.percent_text,
        "recovery": formats.percent_text,
        "score": formats.score_text,
        "stderr": formats.stderr_text,
        "amount": lambda value, limit: formats.amount_text(value, limit.kind, (limit.limit,), unit),
        "benchmarks": lambda tasks: [task for task in tasks if not is_flow_task(task.task)],
        "tokens": lambda number: f"{number:,.0f}",
        "subject": formats.subject_text,
        "rate": formats.rate_text,
        "p": formats.p_text,
        "count": formats.count_text,
        "about": formats.about_text,
        "outcome": formats.OUTCOMES.__getitem__,
        "size": formats.size_text,
        "ratio": formats.ratio_text,
        "short": formats.short_digest,
        "breaks": with_breaks,
        "prose": as_prose,
        "first_line": lambda text: text.partition("\n")[0],
        "code": in_code,
        "block": in_block,
    }
    return environment
