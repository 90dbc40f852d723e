"""A judge over HTTP: what it is shown, what its answers count for, and what is refused."""

import json
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.judge_identity import ServedModel, address_of, check_judge
from quantgate.components.judging.judge_prompts import (
    PROMPTS,
)
from quantgate.components.servers import client
from tests.support.command import Done, quantgate
from tests.support.judge_server import Rule, echo, garbage, judge_server, prefers_first, prefers_longer, write_lines

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write a line.", "Again."]},
    {"question_id": 2, "category": "math", "turns": ["1 + 1?", "2 + 2?"], "reference": ["2", "4"]},
    {"question_id": 3, "category": "math", "turns": ["3 + 3?", "And 4 + 4?"]},
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "questions.jsonl", QUESTIONS)


def saved(file: Path, words: int, model: str = "saved", questions: tuple[int, ...] = (1, 2, 3)) -> Path:
    """A file of replies with so many words each, in FastChat's form."""
    reply = " ".join(["word"] * words)
    rows = [{"question_id": n, "model_id": model, "choices": [{"turns": [reply, reply]}]} for n in questions]
    return write_lines(file, rows)


def judged(kind: str, tmp_path: Path, rule: Rule, *options: str, baseline: int = 8, variant: int = 6) -> Done:
    """`quantgate judge` or `arena` on saved replies of so many words."""
    one, other = saved(tmp_path / "one.jsonl", baseline, "one"), saved(tmp_path / "other.jsonl", variant, "other")
    with judge_server(rule) as server:
        asked = ("--judge", server.url, "--judge-model", "the-judge", "--questions", str(tmp_path / "questions.jsonl"))
        models = ("--baseline", str(one), "--variant", f"int4={other}")
        return quantgate(kind, *models, *asked, "--out", str(tmp_path / "out"), "--json", *options)


def test_grades_are_paired_by_question_and_reported_by_category(tmp_path: Path, questions: Path) -> None:
    result = json.loads(judged("judge", tmp_path, prefers_longer).stdout)
    everything, math, writing = result["grades"]
    assert (everything["questions"], everything["baseline"], everything["grade"]) == (3, 8.0, 6.0)
    assert everything["lower"] < everything["drop"] == 2.0 < everything["upper"]
    assert (math["category"], math["questions"], writing["questions"]) == ("math", 2, 1)
    assert result["without_reference"] == 1
    assert result["missing"] == []


def test_each_judgement_is_stored_with_the_judge_and_the_prompts_version_and_sha256(
    tmp_path: Path, questions: Path
) -> None:
    judged("judge", tmp_path, prefers_longer)
    lines = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    assert len(lines) == 12  # two models, three questions, two turns
    of = {(line["model"], line["question"], line["turn"]): line for line in lines}
    assert of["int4", "1", 2]["verdict"] == 6
    for question, prompt in (("1", "grade"), ("2", "grade-reference"), ("3", "grade")):
        line = of["int4", question, 1]
        assert (line["judge"], line["prompt"], line["prompt_version"]) == ("the-judge", prompt, PROMPTS[prompt].version)
        assert line["prompt_sha256"] == PROMPTS[prompt].sha256


def test_a_preferred_variant_wins_in_both_orders(tmp_path: Path, questions: Path) -> None:
    result = json.loads(judged("arena", tmp_path, prefers_longer, variant=9).stdout)
    assert [(row["category"], row["wins"], row["ties"], row["losses"]) for row in result["standings"]] == [
        ("all", 3, 0, 0),
        ("math", 2, 0, 0),
        ("writing", 1, 0, 0),
    ]
    assert result["bias"] == {"pairs": 3, "first_both": 0, "second_both": 0, "agree": 3, "p_value": None}


def test_a_judge_that_always_prefers_the_first_position_gives_ties_and_the_bias_is_reported(
    tmp_path: Path, questions: Path
) -> None:
    done = judged("arena", tmp_path, prefers_first, variant=9)
    result = json.loads(done.stdout)
    assert (result["standings"][0]["ties"], result["standings"][0]["win_rate"]) == (3, 0.5)
    assert result["bias"] == {"pairs": 3, "first_both": 3, "second_both": 0, "agree": 0, "p_value": 0.25}
    assert "depend on the order too often" in (tmp_path / "out" / "arena.md").read_text()


@pytest.mark.fault("numbers", "A judge answers nonsense", "The question is missing for both models, counted and shown.")
def test_a_judge_without_a_verdict_is_asked_three_times_and_then_no_score(tmp_path: Path, questions: Path) -> None:
    result = json.loads(judged("arena", tmp_path, garbage).stdout)
    everything = result["standings"][0]
    assert (everything["wins"], everything["ties"], everything["losses"], everything["missing"]) == (0, 0, 0, 3)
    assert everything["win_rate"] is None
    assert len(result["missing"]) == 6  # each order of three questions
    assert "no verdict in 3 answers" in result["missing"][0]["reason"]
    assert "Missing replies or verdicts: 6 of int4" in (tmp_path / "out" / "arena.md").read_text()


def test_one_nonsense_verdict_makes_the_question_missing_for_both_models(tmp_path: Path, questions: Path) -> None:
    def sometimes(messages: list[dict[str, str]]) -> str:
        return (
            garbage(messages)
            if "3 + 3?" in messages[1]["content"] and "word " * 7 in messages[1]["content"]
            else "[[5]]"
        )

    result = json.loads(judged("judge", tmp_path, sometimes).stdout)
    assert (result["grades"][0]["questions"], result["grades"][0]["missing"]) == (2, 1)
    assert {(row["model"], row["question"]) for row in result["missing"]} == {("baseline", "3")}


def test_a_judge_that_is_asked_again_sees_its_own_answer_and_what_is_missing(tmp_path: Path, questions: Path) -> None:
    def late(messages: list[dict[str, str]]) -> str:
        return "[[7]]" if len(messages) == 4 and "exactly one verdict" in messages[3]["content"] else "Hm."

    result = json.loads(judged("judge", tmp_path, late).stdout)
    assert (result["grades"][0]["baseline"], result["missing"]) == (7.0, [])


@pytest.mark.slow
@pytest.mark.fault(
    "servers", "A judge takes too long or fails", "The question is missing for both models; a rerun asks again."
)
@pytest.mark.parametrize("rule", [lambda _: 503, lambda _: 400])
def test_a_judge_that_fails_is_no_score_and_a_rerun_asks_it_again(tmp_path: Path, questions: Path, rule: Rule) -> None:
    result = json.loads(judged("judge", tmp_path, rule).stdout)
    assert (result["grades"][0]["missing"], result["grades"][0]["drop"]) == (3, None)
    assert "no answer: HTTP" in result["missing"][0]["reason"]
    assert json.loads(judged("judge", tmp_path, prefers_longer).stdout)["grades"][0]["missing"] == 0


def test_a_judge_that_times_out_is_no_score(tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    monkeypatch.setattr(client, "SLOWEST_TOKEN_S", 0)
    one, other = saved(tmp_path / "one.jsonl", 3, "one", (1,)), saved(tmp_path / "two.jsonl", 3, "two", (1,))
    with judge_server(prefers_first, delay_s=0.4) as server:
        asked = ("--judge", server.url, "--judge-model", "the-judge", "--judge-timeout", "0.1", "--limit", "1")
        models = ("--baseline", str(one), "--variant", str(other), "--questions", str(questions))
        done = quantgate("arena", *models, *asked, "--out", str(tmp_path / "out"), "--json")
    result = json.loads(done.stdout)
    assert result["standings"][0]["missing"] == 1
    assert result["standings"][0]["win_rate"] is None


@pytest.mark.slow
def test_a_judge_that_refuses_a_field_by_name_is_asked_without_it(tmp_path: Path, questions: Path) -> None:
    one, other = saved(tmp_path / "one.jsonl", 3, "one"), saved(tmp_path / "two.jsonl", 4, "two")
    with judge_server(prefers_longer) as server:
        server.refused = {
            "max_tokens": "'max_tokens' is not supported. Use 'max_completion_tokens'.",
            "temperature": "'temperature' does not support 0.",
        }
        models = ("--baseline", str(one), "--variant", str(other), "--questions", str(questions))
        asked = ("--judge", server.url, "--judge-model", "the-judge", "--judge-concurrency", "1")
        done = quantgate("arena", *models, *asked, "--out", str(tmp_path / "out"), "--json")
        assert json.loads(done.stdout)["standings"][0]["wins"] == 3
        assert len(server.asked) == 6 + 2
        assert set(server.asked[-1]) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.slow
def test_served_models_are_asked_turn_by_turn_and_a_rerun_asks_neither_them_nor_the_judge(
    tmp_path: Path, questions: Path
) -> None:
    with (
        judge_server(prefers_longer) as judge,
        judge_server(echo(5), "one") as one,
        judge_server(echo(6), "two") as two,
    ):
        models = ("--baseline", one.url, "--variant", two.url, "--questions", str(questions))
        asked = ("--judge", judge.url, "--judge-model", "the-judge", "--out", str(tmp_path / "out"), "--json")
        result = json.loads(quantgate("arena", *models, *asked).stdout)
        assert result["standings"][0]["wins"] == 3
        second_turns = [call["messages"] for call in one.asked if len(call["messages"]) == 3]
        assert {messages[1]["content"] for messages in second_turns} == {"turn1 turn1 turn1 turn1 turn1"}
        assert len(one.asked) == 6
        assert one.asked[0]["temperature"] == 0
        assert quantgate("arena", *models, *asked).returncode == 0
        assert (len(one.asked), len(two.asked), len(judge.asked)) == (6, 6, 6)  # no more than before
    replies = [json.loads(line) for line in (tmp_path / "out" / "models" / "variant.jsonl").read_text().splitlines()]
    assert replies[0]["model_id"] == "two"
    assert replies[0]["choices"][0]["turns"][1].startswith("turn2")


@pytest.mark.fault("verdicts", "The judge is a judged model", "Refused before anything is asked.")
@pytest.mark.parametrize("same", ["address", "name", "weights", "saved"])
def test_a_judged_model_cannot_be_the_judge(tmp_path: Path, questions: Path, same: str) -> None:
    name, weights = (
        ("judge" if same in ("name", "saved") else "other"),
        "/models/x" if same == "weights" else "/models/y",
    )
    with (
        judge_server(prefers_first, "judge", weights="/models/x") as judge,
        judge_server(echo(3), name, weights=weights) as model,
    ):
        place = judge.url.replace("127.0.0.1", "localhost") if same == "address" else model.url
        variant = str(saved(tmp_path / "s.jsonl", 3, "judge" if same == "saved" else "third"))
        baseline = str(saved(tmp_path / "b.jsonl", 3, "fourth")) if same == "saved" else place
        models = ("--baseline", baseline, "--variant", variant, "--questions", str(questions))
        done = quantgate(
            "arena", *models, "--judge", judge.url, "--judge-model", "judge", "--out", str(tmp_path / "out")
        )
        assert done.returncode == 2
        assert "prefers its own answers" in done.stderr
        assert (judge.asked, model.asked) == ([], [])


def test_a_judge_with_the_digest_of_a_judged_model_is_refused_and_with_another_is_not() -> None:
    judge = ServedModel("judge", "10.0.0.1:80", digest="a" * 64)
    check_judge(judge, [("int8", ServedModel("model", "10.0.0.2:80", digest="b" * 64))])
    with pytest.raises(PrerequisiteError, match="its weights have the digest of int8"):
        check_judge(judge, [("int8", ServedModel("model", "10.0.0.2:80", digest="a" * 64))])


def test_an_address_is_the_same_in_each_spelling() -> None:
    assert address_of("http://LOCALHOST:80/v1/") == address_of("http://127.0.0.1") == "127.0.0.1:80"
    assert address_of("https://api.example/v1") == "api.example:443"
    assert address_of("http://127.0.0.1:8000/v1") != address_of("http://127.0.0.1:8001/v1")


@pytest.mark.slow
def test_the_judges_key_comes_from_the_named_variable_and_goes_to_the_judge_alone(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = saved(tmp_path / "one.jsonl", 3, "one"), saved(tmp_path / "two.jsonl", 3, "two")
    with judge_server(prefers_longer, key="secret") as server:
        models = ("arena", "--baseline", str(one), "--variant", str(other), "--questions", str(questions))
        arguments = (*models, "--judge", server.url, "--judge-model", "the-judge", "--out", str(tmp_path / "out"))
        without = quantgate(*arguments, OPENAI_API_KEY="secret")
        assert (without.returncode, "--judge-key VARIABLE" in without.stderr) == (2, True)
        unset = quantgate(*arguments, "--judge-key", "JUDGE_KEY")
        assert (unset.returncode, "$JUDGE_KEY is not set" in unset.stderr) == (2, True)
        assert quantgate(*arguments, "--judge-key", "JUDGE_KEY", JUDGE_KEY="secret").returncode == 0
    assert "secret" not in (tmp_path / "out" / "judgements.jsonl").read_text()


def test_reference_answers_of_a_file_reach_the_judge(tmp_path: Path, questions: Path) -> None:
    references = write_lines(tmp_path / "gpt-4.jsonl", [{"question_id": 3, "choices": [{"turns": ["six", "eight"]}]}])
    result = json.loads(judged("judge", tmp_path, prefers_longer, "--references", str(references)).stdout)
    assert result["without_reference"] == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    assert {line["prompt"] for line in lines if line["question"] == "3"} == {"grade-reference"}
    write_lines(references, [{"question_id": 3, "choices": [{"turns": ["six"]}]}])
    assert "question 3 has 2 turns" in judged("judge", tmp_path, garbage, "--references", str(references)).stderr
