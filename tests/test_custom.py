"""Custom tasks: which folders are valid, and lm-eval's scores of a model with known answers."""

import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from quantgate.components.benchmarks import custom
from quantgate.components.benchmarks.custom import ChoiceItem, CustomSet, ExactItem, RegexItem, read_set
from quantgate.components.errors import PrerequisiteError

SETTINGS = {
    kind: f"name: units\ndescription: Units of measurement.\nanswer: {kind}\n" for kind in ("choice", "exact", "regex")
}
CHOICE = {"id": 1, "question": "Unit of force?", "choices": ["newton", "joule"], "answer": "newton"}
EXACT = {"id": 1, "question": "Unit of force?", "answer": ["newton", "N"]}
REGEX = {"id": 1, "question": "Unit of force?", "answer": r"\bnewtons?\b"}


def written(folder: Path, settings: str, *items: dict[str, Any] | str) -> Path:
    """The folder with a set of these settings and items; an item may be given as its line."""
    folder.mkdir(exist_ok=True)
    (folder / "set.yaml").write_text(settings, encoding="utf-8")
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]
    (folder / "items.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


class Table(LM):  # type: ignore[misc]  # lm-eval is untyped
    """A model that answers from a table: generated texts, or log-likelihoods of continuations (-10 if missing)."""

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__()
        self.table = table
        self.requests: list[tuple[Any, ...]] = []

    def entry_for(self, text: str, otherwise: Any) -> Any:
        """The entry of the first key that the text contains."""
        return next((entry for key, entry in self.table.items() if key in text), otherwise)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.requests += [request.args for request in requests]
        return [(self.entry_for("".join(request.args), -10.0), False) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.requests += [request.args for request in requests]
        return [self.entry_for(request.args[0], "") for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


def evaluate_set(custom_set: CustomSet, model: Table) -> dict[str, Any]:
    """lm-eval's results for the set and the model."""
    dataset = custom.rows(custom_set)
    config = {**custom.task_config(custom_set), "custom_dataset": lambda **_metadata: {"test": dataset}}
    outcome = simple_evaluate(
        model=model,
        tasks=[ConfigurableTask(config=config)],
        num_fewshot=0,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    return dict(outcome)


def scores(outcome: dict[str, Any], metric: str) -> list[float]:
    """The score of each item, in order."""
    samples = sorted(outcome["samples"]["units"], key=lambda sample: int(sample["doc_id"]))
    return [sample[metric] for sample in samples]


@pytest.mark.slow
def test_a_choice_scores_when_it_is_most_likely_relative_to_its_length(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "question": "Force?", "choices": ["joule", "newton"], "answer": 1},
        {"id": 2, "question": "Energy?", "choices": ["newton", "joule", "watt"], "answer": "joule"},
        {"id": 3, "question": "Speed?", "choices": ["m", "metres per second"], "answer": 1},
    ]
    custom_set = read_set(written(tmp_path, SETTINGS["choice"], *lines))
    model = Table({"Force?\nAnswer: newton": -2.0, "Energy?\nAnswer: watt": -2.0, "Speed?\nAnswer: m": -9.0})
    model.table = {"Speed?\nAnswer: metres": -12.0, **model.table}
    outcome = evaluate_set(custom_set, model)
    assert custom_set.metric == "acc_norm"
    assert custom_set.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert scores(outcome, "acc_norm") == [1.0, 0.0, 1.0]
    assert scores(outcome, "acc") == [1.0, 0.0, 0.0]
    assert outcome["results"]["units"]["acc_norm,none"] == pytest.approx(2 / 3)
    assert outcome["versions"]["units"] == custom_set.digest[:12]
    assert [sample["target"] for sample in outcome["samples"]["units"]] == [1, 1, 1]


@pytest.mark.slow
def test_an_exact_answer_equals_an_accepted_text_apart_from_white_space_and_case(tmp_path: Path) -> None:
    lines = [{"id": n, "question": f"Item {n}?", "answer": ["Café", "N"]} for n in range(6)]
    answers = ["  café\t", "n", "N.", "", "Cafe\u0301", "the N"]
    custom_set = read_set(written(tmp_path, SETTINGS["exact"], *lines))
    outcome = evaluate_set(custom_set, Table({f"Item {n}?": answer for n, answer in enumerate(answers)}))
    assert (custom_set.metric, custom_set.chance) == ("exact_match", 0.0)
    assert scores(outcome, "exact_match") == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert outcome["results"]["units"]["exact_match,none"] == 0.5


@pytest.mark.slow
def test_a_regular_expression_is_searched_in_the_answer(tmp_path: Path) -> None:
    lines = [{"id": n, "question": f"Item {n}?", "answer": r"^\d+ newtons?$|about"} for n in range(4)]
    custom_set = read_set(written(tmp_path, SETTINGS["regex"], *lines))
    answers = [" 12 Newton", "It is 12 newton", "It is ABOUT 12", ""]
    outcome = evaluate_set(custom_set, Table({f"Item {n}?": answer for n, answer in enumerate(answers)}))
    assert scores(outcome, "exact_match") == [1.0, 0.0, 1.0, 0.0]


def test_case_matters_if_the_set_says_so(tmp_path: Path) -> None:
    for kind, item in (("exact", {**EXACT, "answer": "N"}), ("regex", {**REGEX, "answer": "N"})):
        custom_set = read_set(written(tmp_path, SETTINGS[kind] + "ignore_case: false\n", item))
        score = custom.task_config(custom_set)["process_results"]
        assert [score({"answer": ["N"]}, [answer]) for answer in "nN"] == [{"exact_match": 0.0}, {"exact_match": 1.0}]


def test_a_regular_expression_is_searched_in_the_first_4096_characters() -> None:
    for before, score in ((4095, 1.0), (4096, 0.0)):
        answer = "-" * before + "N"
        assert custom.regex_score({"answer": ["N"]}, [answer], ignore_case=False) == {"exact_match": score}


@pytest.mark.slow
def test_braces_reach_the_model_unchanged(tmp_path: Path) -> None:
    item = {"id": 1, "context": "{% raw %}", "question": "{{ 7 * 7 }}?", "choices": ["{{a}}", "question"], "answer": 0}
    custom_set = read_set(written(tmp_path, SETTINGS["choice"] + "instruction: '{{ id }}'\n", item))
    model = Table({"{{a}}": -1.0})
    assert scores(evaluate_set(custom_set, model), "acc_norm") == [1.0]
    text = "{{ id }}\n\n{% raw %}\n\nQuestion: {{ 7 * 7 }}?\nAnswer:"
    assert model.requests == [(text, " {{a}}"), (text, " question")]


@pytest.mark.slow
def test_the_settings_of_a_written_answer_reach_the_model(tmp_path: Path) -> None:
    custom_set = read_set(written(tmp_path, SETTINGS["exact"] + 'max_tokens: 9\nstop: [";", "\\n"]\n', EXACT))
    model = Table({})
    evaluate_set(custom_set, model)
    settings = {"until": [";", "\n"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    assert model.requests == [("Question: Unit of force?\nAnswer:", settings)]


def test_a_set_is_read_completely_and_in_order(tmp_path: Path) -> None:
    second = {"id": "b", "question": "Two\u2028lines?", "choices": ["1", "0"], "answer": "1", "cluster": "c"}
    folder = written(tmp_path, SETTINGS["choice"], CHOICE, "", second)
    custom_set = read_set(folder)
    assert custom_set.items == (
        ChoiceItem(id="1", question="Unit of force?", choices=("newton", "joule"), answer=0),
        ChoiceItem(id="b", question="Two\u2028lines?", cluster="c", choices=("1", "0"), answer=0),
    )
    assert (custom_set.name, custom_set.max_tokens, custom_set.stop, custom_set.ignore_case) == (
        "units",
        64,
        ("\n",),
        True,
    )
    assert (custom_set.instruction, custom_set.sensitive_to, custom_set.folder) == ("", "", str(folder))
    assert custom.rows(custom_set).to_list()[1] == {
        "id": "b",
        "question": "Two\u2028lines?",
        "context": "",
        "choices": ["1", "0"],
        "answer": 0,
        "cluster": "c",
    }


def test_answers_of_generation_tasks_are_stored_as_texts(tmp_path: Path) -> None:
    exact = read_set(written(tmp_path, SETTINGS["exact"], {**EXACT, "answer": "42"}))
    regex = read_set(written(tmp_path, SETTINGS["regex"], REGEX))
    assert [type(custom_set.items[0]) for custom_set in (exact, regex)] == [ExactItem, RegexItem]
    assert [custom.rows(custom_set)["answer"][0] for custom_set in (exact, regex)] == [["42"], [r"\bnewtons?\b"]]
    assert custom.rows(exact)["choices"][0] == []


def test_the_digest_changes_with_a_byte_of_either_file(tmp_path: Path) -> None:
    folder = written(tmp_path, SETTINGS["choice"], CHOICE)
    digests = [read_set(folder).digest]
    for name in ("set.yaml", "items.jsonl"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        digests.append(read_set(folder).digest)
    assert len(set(digests)) == 3
    parts = [hashlib.sha256((folder / name).read_bytes()).digest() for name in ("set.yaml", "items.jsonl")]
    assert digests[-1] == hashlib.sha256(b"".join(parts)).hexdigest()


KEYS = "name, description, answer, instruction, max_tokens, stop, ignore_case, sensitive_to"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (SETTINGS["exact"] + "shots: 5\n", f"line 4: unknown key shots; the keys are {KEYS}"),
        ("description: x\nanswer: exact\n", "line 1: name is missing"),
        ("name: Units\ndescription: x\nanswer: exact\n", "line 1: name: String should match pattern '^[a-z0-9]"),
        ("name: ..\ndescription: x\nanswer: exact\n", "line 1: name: String should match pattern '^[a-z0-9]"),
        ("name: 2024\ndescription: x\nanswer: exact\n", "line 1: name: Input should be a valid string"),
        ('name: x\ndescription: " "\nanswer: exact\n', "line 2: description: it is empty"),
        ("name: x\ndescription: |\n  a\n  b\nanswer: exact\n", "line 2: description: String should match pattern"),
        ("name: x\ndescription: x\nanswer: essay\n", "line 3: answer: Input should be 'choice', 'exact' or 'regex'"),
        (SETTINGS["exact"] + "max_tokens: 0\n", "line 4: max_tokens: Input should be greater than or equal to 1"),
        (SETTINGS["exact"] + "max_tokens: 4097\n", "line 4: max_tokens: Input should be less than or equal to 4096"),
        (SETTINGS["exact"] + "stop: x\n", "line 4: stop: Input should be a valid tuple"),
        (SETTINGS["exact"] + "stop: ['']\n", "line 4: stop.0: String should have at least 1 character"),
        (SETTINGS["exact"] + "ignore_case: 1\n", "line 4: ignore_case: Input should be a valid boolean"),
        (SETTINGS["choice"] + "stop: [x]\n", "line 1: stop: only for answers that the model writes, exact and regex"),
        (SETTINGS["exact"] + "name: y\n", "line 4: name is given twice"),
    ],
)
def test_unknown_or_invalid_settings_are_refused(settings: str, complaint: str, tmp_path: Path) -> None:
    folder = written(tmp_path, settings, EXACT)
    with pytest.raises(PrerequisiteError) as refusal:
        read_set(folder)
    assert str(refusal.value).startswith(f"{folder / 'set.yaml'}, {complaint}")
    assert str(refusal.value).endswith("Correct the file.")


@pytest.mark.parametrize(
    ("kind", "line", "complaint"),
    [
        ("choice", "{", "this is not JSON: Expecting property name"),
        ("choice", "[1]", "an object is expected, of id, question, context, cluster, choices, answer"),
        ("choice", {**CHOICE, "id": 9, "unit": 1}, "unknown key unit; the keys are id, question, context, cluster, ch"),
        ("exact", {**CHOICE, "id": 9}, "unknown key choices; the keys are id, question, context, cluster, answer"),
        ("choice", {"id": 9, "choices": ["a", "b"], "answer": 0}, "question is missing"),
        ("choice", {**CHOICE, "id": 9, "question": " "}, "question: it is empty"),
        ("choice", {**CHOICE, "id": ""}, "id: it is empty"),
        ("choice", {**CHOICE, "id": True}, "id: it must be a text or a whole number"),
        ("choice", {**CHOICE, "id": 1.5}, "id: it must be a text or a whole number"),
        ("choice", {**CHOICE, "id": "1"}, "the id 1 is on line 1 already"),
        ("choice", {**CHOICE, "id": 9, "cluster": 3}, "cluster: Input should be a valid string"),
        ("choice", {**CHOICE, "id": 9, "choices": ["newton"]}, "choices: Tuple should have at least 2 items"),
        ("choice", {**CHOICE, "id": 9, "choices": ["newton", "newton "]}, "choices: two of them are the same"),
        ("choice", {**CHOICE, "id": 9, "choices": ["newton", ""]}, "choices.1: it is empty"),
        ("choice", {**CHOICE, "id": 9, "answer": "watt"}, "answer: 'watt' is not among the choices"),
        ("choice", {**CHOICE, "id": 9, "answer": 2}, "answer: 2 is not a position of a choice: positions are 0 to 1"),
        ("choice", {**CHOICE, "id": 9, "answer": -1}, "answer: -1 is not a position of a choice: positions are 0 to 1"),
        ("choice", {**CHOICE, "id": 9, "answer": True}, "answer: Input should be a valid integer"),
        ("exact", {**EXACT, "id": 9, "answer": []}, "answer: it must be a text or a list of texts"),
        ("exact", {**EXACT, "id": 9, "answer": 42}, "answer: it must be a text or a list of texts"),
        ("exact", {**EXACT, "id": 9, "answer": ["N", " "]}, "answer.1: it is empty"),
        ("exact", {**EXACT, "id": 9, "answer": "a\nb"}, "answer: 'a\\nb' can never be written, as ['\\n'] ends an"),
        ("regex", {**REGEX, "id": 9, "answer": "(N"}, "answer: '(N' is not a regular expression: missing )"),
        ("regex", {**REGEX, "id": 9, "answer": "N*"}, "answer: 'N*' is found in an empty answer, which would be"),
        ("regex", {**REGEX, "id": 9, "answer": ["N"]}, "answer: it must be the text of a regular expression"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    kind: str, line: dict[str, Any] | str, complaint: str, tmp_path: Path
) -> None:
    good = {"choice": CHOICE, "exact": EXACT, "regex": REGEX}[kind]
    folder = written(tmp_path, SETTINGS[kind], good, "", line)
    with pytest.raises(PrerequisiteError) as refusal:
        read_set(folder)
    assert str(refusal.value).startswith(f"{folder / 'items.jsonl'}, line 3: {complaint}")
    assert str(refusal.value).endswith("Correct the file.")


def test_the_first_five_faults_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        read_set(written(tmp_path, SETTINGS["exact"], *["{"] * 7))
    assert "line 5: this is not JSON" in str(refusal.value)
    assert "; and 2 more. Correct the file." in str(refusal.value)
    assert "line 6" not in str(refusal.value)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="line 1: there is no item. Correct the file.$"):
        read_set(written(tmp_path, SETTINGS["exact"], "", " "))


@pytest.mark.parametrize("name", ["set.yaml", "items.jsonl"])
def test_an_unreadable_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path, SETTINGS["exact"], EXACT)
    (folder / name).write_bytes(b"\xff")
    with pytest.raises(PrerequisiteError, match=rf"{name} cannot be read: .*both in UTF-8"):
        read_set(folder)
    (folder / name).unlink()
    with pytest.raises(PrerequisiteError, match=rf"{name} cannot be read: .*A test set is a folder with set.yaml and"):
        read_set(folder)


def canopy() -> tuple[CustomSet, list[ChoiceItem]]:
    """The set that ships, and its items."""
    custom_set = read_set(custom.SETS / "canopy")
    return custom_set, [item for item in custom_set.items if isinstance(item, ChoiceItem)]


def test_canopy_has_three_clusters_of_items_with_four_choices() -> None:
    custom_set, items = canopy()
    assert (custom_set.name, custom_set.metric, custom_set.chance) == ("canopy", "acc_norm", 0.25)
    assert Counter(item.cluster for item in items) == {"summaries": 22, "study-questions": 21, "feedback": 21}
    assert {len(item.choices) for item in items} == {4}
    assert len({item.question for item in items}) == len({item.context for item in items}) == len(items) == 64


def test_canopys_passages_have_60_to_120_words() -> None:
    lengths = [len(item.context.split()) for item in canopy()[1] if item.cluster != "feedback"]
    assert min(lengths) >= 60
    assert max(lengths) <= 120


def test_canopys_right_choices_are_spread_evenly_over_the_positions_in_random_order() -> None:
    answers = [item.answer for item in canopy()[1]]
    assert set(Counter(answers).values()) <= {15, 16, 17}
    steps = Counter((after - before) % 4 for before, after in pairwise(answers))
    assert max(steps.values()) <= len(answers) * 0.4


def test_the_length_of_canopys_choices_does_not_reveal_the_right_one() -> None:
    _, items = canopy()
    ranks = []
    for item in items:
        lengths = [len(choice) for choice in item.choices]
        assert max(lengths) / min(lengths) < 1.25
        right = lengths.pop(item.answer)
        ranks.append((right >= max(lengths), right <= min(lengths)))
    for extreme in zip(*ranks, strict=True):
        assert sum(extreme) <= len(items) * 0.4
