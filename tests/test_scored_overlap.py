"""Calibration texts that contain what is scored are refused: custom tasks' questions, lm-eval's rows, documents."""

import json
from pathlib import Path

import pytest

from quantgate.components.benchmarks import harness
from quantgate.components.benchmarks.calibration_rows import rows_of_file
from quantgate.components.benchmarks.custom import read_set
from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.suites import SuiteTask, suite_named
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.calibration_texts import CalibrationSample
from quantgate.components.resolve.scored_overlap import SHORTEST, ScoredTexts, check_disjoint, compared, scored_texts
from quantgate.components.resolve.step import resolve
from quantgate.components.run import progress
from quantgate.components.run.plan import EvaluationPlan

LONG = "Which of the two rivers that meet at Koblenz is the longer one?"
SHORT = "Who wrote Faust?"


def samples_of(folder: Path, *rows: object) -> list[CalibrationSample]:
    file = folder / "mine.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return [CalibrationSample(row, row.plain, False, 1, row.plain) for row in rows_of_file(file)]


def rivers(folder: Path) -> Path:
    """The folder of a custom task with two questions."""
    folder = folder / "rivers"
    folder.mkdir()
    (folder / "set.yaml").write_text(
        "name: rivers\ndescription: Rivers\nanswer: exact\ninstruction: Answer in one word.\n", encoding="utf-8"
    )
    items = [{"id": 1, "question": SHORT, "answer": "Goethe"}, {"id": 2, "question": LONG, "answer": "The Rhine"}]
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    return folder


@pytest.fixture
def own_task(tmp_path: Path) -> harness.Prepared:
    """That custom task with its rows."""
    folder = rivers(tmp_path)
    task = suite_named("demo", [read_set(folder)]).tasks[-1]
    return harness.prepare(task, Folder(tmp_path))


@pytest.mark.fault(
    "inputs",
    "a calibration text contains a question that is scored, in another case or with other white space",
    "the run is refused with the line and the item, before anything is quantized",
)
@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"A quiz. {LONG} The Rhine.",
        f"Q:\t{LONG.upper()}".replace(" ", "\n\n"),
        LONG.replace("wh", "\uff37\uff28").replace("fi", "\ufb01"),
        f"  {SHORT.upper()} ",
    ],
    ids=["equal", "inside", "case and white space", "other forms of letters", "a short one, equal"],
)
def test_a_sample_that_has_a_scored_question_is_refused(tmp_path: Path, own_task: harness.Prepared, text: str) -> None:
    item = 0 if SHORT.casefold() in text.casefold() else 1
    samples = samples_of(tmp_path, {"text": "Something else."}, {"text": text}, {"text": text})
    with pytest.raises(PrerequisiteError) as refusal:
        check_disjoint(samples, [own_task])
    assert str(refusal.value) == (
        f"2 of 3 calibration samples contain what is scored: {tmp_path}/mine.jsonl, line 2, has item {item} of rivers."
        " Remove such rows, or give other texts (--calibration)."
    )


def test_a_chat_is_compared_by_message_and_as_a_whole(tmp_path: Path, own_task: harness.Prepared) -> None:
    for content in (SHORT, f"Tell me: {LONG}"):
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "I know."}]
        with pytest.raises(PrerequisiteError, match="1 of 1 calibration samples"):
            check_disjoint(samples_of(tmp_path, {"messages": chat}), [own_task])


def test_texts_that_have_no_whole_question_are_accepted(tmp_path: Path, own_task: harness.Prepared) -> None:
    texts = [LONG[:-2], f"{SHORT} Goethe.", "The Rhine", "Answer in one word.", "", LONG[5:]]
    samples = samples_of(tmp_path, *({"text": text or "x"} for text in texts))
    check_disjoint(samples, [own_task])
    check_disjoint([], [own_task])


def test_only_the_part_of_a_text_that_is_used_counts(tmp_path: Path, own_task: harness.Prepared) -> None:
    (sample,) = samples_of(tmp_path, {"text": f"First this. {LONG}"})
    cut = CalibrationSample(sample.row, sample.text, False, 2, sample.text[:-1])
    check_disjoint([cut], [own_task])


@pytest.mark.parametrize(("length", "refused"), [(SHORTEST - 1, False), (SHORTEST, True)])
def test_a_part_counts_from_forty_characters(tmp_path: Path, length: int, refused: bool) -> None:
    scored = ScoredTexts()
    question = "abcdefghij" * 4
    scored.add(question[:length], "item 0 of it")
    (sample,) = samples_of(tmp_path, {"text": f"z {question[:length]} z"})
    assert bool(scored.found_in(sample)) == refused


@pytest.mark.slow
def test_rows_of_lm_evals_tasks_count_as_they_are_asked(tmp_path: Path) -> None:
    arc = {
        "id": "Mercury_SC_4011234_of_the_Texas_assessment",
        "question": "Which property of a mineral can be determined just by looking at it?",
        "choices": {"text": ["luster", "mass", "weight", "hardness"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    }
    page = {"page": " = A river = \n The Rhine rises in the Swiss canton of Graubünden and flows north . \n Short . "}
    wino = {
        "sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.",
        "option1": "Sarah",
        "option2": "Maria",
        "answer": "2",
    }
    rows = {
        ("arc_easy", "allenai/ai2_arc/ARC-Easy/test"): arc,
        ("wikitext", "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test"): page,
        ("winogrande", "allenai/winogrande/winogrande_xl/validation"): wino,
    }
    tasks = []
    for (name, stem), row in rows.items():
        file = tmp_path / f"{stem}.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        tasks.append(harness.prepare(SuiteTask(name, "acc", shots=0, chance=0.0, tiny=1, full=1), Folder(tmp_path)))
    scored = scored_texts(tasks)
    found = {
        "Q. Which property of a mineral can be determined just by looking at it? Luster!": "item 0 of arc_easy",
        "See: the Rhine rises in the Swiss canton of  Graubünden and flows north . More.": "item 0 of wikitext",
        "the Rhine rises in the Swiss canton of Graubünden and flows north.": "item 0 of wikitext",
        "Sarah was a much better surgeon than Maria so Maria always got the easier cases.": "item 0 of winogrande",
        "luster": "",
        "See Mercury_SC_4011234_of_the_Texas_assessment.": "",
        "Short .": "",
    }
    samples = samples_of(tmp_path, *({"text": text} for text in found))
    assert [scored.found_in(sample) for sample in samples] == list(found.values())


def test_texts_are_compared_without_case_white_space_and_forms_of_letters() -> None:
    assert compared(" Ein\u00a0Stra\u00dfe\n\uff21 \ufb01n ") == "ein strasse a fin"


@pytest.mark.slow
def test_a_run_whose_calibration_has_a_scored_question_ends_in_resolve(tmp_path: Path, tiny_model: Path) -> None:
    folder = rivers(tmp_path)
    texts = tmp_path / "mine.jsonl"
    places = {"store": str(tmp_path / "store"), "results": str(tmp_path / "run")}
    plan = EvaluationPlan(
        variants=("bf16", "int8"), suite="", custom=(str(folder),), calibration=str(texts), check_power=False, **places
    )
    files = str(tmp_path / "model.json"), str(tmp_path / "plan.json")
    texts.write_text(json.dumps({"text": f"A quiz: {LONG}"}) + "\n", encoding="utf-8")
    with pytest.raises(PrerequisiteError, match=r"1 of 1 calibration samples .* line 1, has item 1 of rivers"):
        resolve(f"file:{tiny_model}", plan, *files)
    texts.write_text(json.dumps({"text": "A quiz about rivers."}) + "\n", encoding="utf-8")
    assert resolve(f"file:{tiny_model}", plan, *files) == ["bf16", "int8"]
    chosen = EvaluationPlan.read(files[1]).chosen_calibration
    assert (chosen.name, chosen.samples, chosen.used_tokens) == ("mine.jsonl", 1, 20)
    events, _ = progress.read(tmp_path / "run" / "progress.jsonl")
    assert events[-1].note.endswith(f"calibrated with {chosen.describe()}")
