"""Questions of several turns, and the replies of the models that are asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import ChatQuestion, chosen, read_questions
from quantgate.components.judging.contestants import contestant
from quantgate.components.judging.judging_options import Panel
from quantgate.components.judging.kept_lines import KeptLines
from quantgate.components.judging.replies import ReplySettings, replies_of
from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers import client
from quantgate.pipelines.judged_models import questions_of
from tests.support.command import quantgate
from tests.support.judge_server import echo, judge_server, prefers_longer, write_lines


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Hi", "turns": ["Hi"]}, "has more than one of"),
        ({"id": "x"}, "has none of"),
        ({"turns": ["Hi", 3]}, "not a text"),
        ({"turns": ["Hi", " "]}, "is empty"),
        ({"turns": ["Hi"], "reference": ["a", "b"]}, "1 turns and 2 references"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "must be the user's"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(PrerequisiteError, match=rf"q\.jsonl, line 2.*{what}"):
        read_questions(write_lines(tmp_path / "q.jsonl", [{"prompt": "first"}, row]))


def test_each_form_of_a_question_is_read(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "Hi", "category": "c"},
        {"messages": messages},
        {"prompt": ["a", "b"], "prompt_id": 7},
    ]
    one, two, three = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert (one.turns, one.category, two.system, two.turns) == (("Hi",), "c", "Be brief.", ("Hi",))
    assert (three.id, three.turns) == ("7", ("a", "b"))
    assert one.id != two.id


def test_a_limit_keeps_all_categories() -> None:
    many = [ChatQuestion(str(n), "math" if n < 8 else "writing", ("x",)) for n in range(10)]
    kept = chosen(many, 4)
    assert sorted(question.category for question in kept) == ["math", "math", "writing", "writing"]
    assert chosen(many, 0) == tuple(many)


def test_kept_lines_survive_a_line_that_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    KeptLines(file).put("a", {"text": "one"})
    with file.open("a") as stream:
        stream.write('{"key": "b", "te')
    again = KeptLines(file)
    assert (again.get("a"), again.get("b")) == ({"key": "a", "text": "one"}, None)
    again.put("c", {"text": "two"})
    assert KeptLines(file).get("c") == {"key": "c", "text": "two"}


def test_a_runs_variant_is_asked_at_its_server_with_its_key_and_known_by_its_digest(tmp_path: Path) -> None:
    with judge_server(echo(3), "quantgate-int8", key="of-this-start") as server:
        (tmp_path / "server.key").write_text("of-this-start")
        run_server = Server(
            variant="int8",
            url=server.url,
            served_name="quantgate-int8",
            command="vllm serve",
            key_file=str(tmp_path / "server.key"),
            identity=ServerIdentity(weights="d" * 64),
        )
        run_server.write(tmp_path / "server.json")
        found = contestant(f"int8={tmp_path}", "", "variant", 4)
        assert (found.name, found.served.model, found.served.digest) == ("int8", "quantgate-int8", "d" * 64)
        kept = KeptLines(tmp_path / "replies.jsonl")
        questions = [ChatQuestion("1", "all", ("Hi",))]
        replies = replies_of(found, questions, ReplySettings(), kept, lambda *_: None)
        assert replies["1"].turns == ("turn1 turn1 turn1",)
    with pytest.raises(PrerequisiteError, match="has ended; a run stops its servers"):
        contestant(str(tmp_path), "", "variant", 4)
    run_server.model_copy(update={"failure": "out of memory", "url": ""}).write(tmp_path / "server.json")
    with pytest.raises(PrerequisiteError, match="its server failed: out of memory"):
        contestant(str(tmp_path), "", "variant", 4)


def test_a_prompt_that_a_model_refuses_is_missing_and_a_server_that_ends_stops_the_command(tmp_path: Path) -> None:
    questions = [ChatQuestion("1", "all", ("short",)), ChatQuestion("2", "all", ("much too long",))]
    status = 400

    def refuses(messages: list[dict[str, str]]) -> str | int:
        return status if "long" in messages[0]["content"] else "fine"

    with judge_server(refuses, "model") as server:
        model = contestant(server.url, "", "model", 4)
        kept = KeptLines(tmp_path / "replies.jsonl")
        replies = replies_of(model, questions, ReplySettings(), kept, lambda *_: None)
        assert replies["1"].turns == ("fine",)
        assert replies["2"].failure.startswith("HTTP 400")
        status = 503
        with pytest.raises(PrerequisiteError, match="Its replies are kept; run the same command again"):
            replies_of(model, questions, ReplySettings(), kept, lambda *_: None)


@pytest.mark.slow  # imports datasets
def test_mt_bench_is_read_from_a_mirror_and_asked_at_its_own_temperatures(tmp_path: Path) -> None:
    categories = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    rows = [
        {
            "prompt": [f"Question {n}?", "And then?"],
            "prompt_id": n,
            "category": categories[n // 10],
            "reference": ["r", "s"] if categories[n // 10] == "math" else [],
        }
        for n in range(80)
    ]
    folder = tmp_path / "rows" / "HuggingFaceH4" / "mt_bench_prompts" / "default"
    folder.mkdir(parents=True)
    write_lines(folder / "train.jsonl", rows)
    made = quantgate("mirror", "mt-bench", str(tmp_path / "mirror"), "--from", str(tmp_path / "rows"))
    assert made.returncode == 0, made.stderr
    assert quantgate("mirror", "mt-bench", str(tmp_path / "mirror"), "--check").returncode == 0
    with (
        judge_server(prefers_longer) as judge,
        judge_server(echo(7), "one") as one,
        judge_server(echo(4), "two") as two,
    ):
        models = ("--baseline", one.url, "--variant", two.url, "--data", str(tmp_path / "mirror"), "--limit", "16")
        asked = ("--judge", judge.url, "--judge-model", "the-judge", "--out", str(tmp_path / "out"), "--json")
        result = json.loads(quantgate("judge", *models, *asked).stdout)
        by_category = {row["category"]: row for row in result["grades"]}
        assert set(by_category) == {"all", *categories}
        assert (by_category["all"]["questions"], by_category["all"]["drop"]) == (16, 3.0)
        assert {call["temperature"] for call in one.asked} == {0.7, 0.1, 0}
        assert result["without_reference"] == 4
    write_lines(folder / "train.jsonl", rows[:79])
    assert quantgate("mirror", "mt-bench", str(tmp_path / "other"), "--from", str(tmp_path / "rows")).returncode == 0
    with pytest.raises(PrerequisiteError, match="has 79 questions"):
        questions_of(Panel("", (), (), "mt-bench", tmp_path, data=str(tmp_path / "other")))
