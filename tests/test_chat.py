"""Generated tasks as chats: what is sent, what is scored, how often each question is asked."""

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from quantgate.components.benchmarks import protocol
from quantgate.components.benchmarks.custom import read_set
from quantgate.components.benchmarks.selection import Questions
from quantgate.components.benchmarks.suites import SUITES, Suite, SuiteTask, custom_task
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.evaluation import Earlier, Evaluation
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.resolve import checks
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.servers import client
from tests.support.prompted import questions_on

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content.split('</think>')[-1] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]OPEN{% endif %}"
)
"""Of a model that may think: it takes earlier thinking out of a chat."""
PLAN = EvaluationPlan(variants=("bf16",), store="", results="")
ITEMS = 4
Answer = Callable[[dict[str, Any]], str]


class ChatServer(http.server.ThreadingHTTPServer):
    """Renders chats with the model's template, as vLLM does, and gives the answers of a function."""

    def __init__(self, tokenizer: Path, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
        self.answer = answer
        self.chats: list[dict[str, Any]] = []

    def handle_error(self, *_: object) -> None:
        """Stay quiet when a client ends its calls after a failure."""

    def reply(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The response of vLLM's /v1/chat/completions."""
        self.chats.append(payload)
        ids = self.tokenizer.apply_chat_template(payload["messages"], tokenize=True, add_generation_prompt=True)
        text = self.answer(payload)
        end = "length" if len(text) >= payload["max_tokens"] else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": end}
        return {
            "choices": [choice],
            "usage": {"completion_tokens": len(text)},
            "prompt_token_ids": list(getattr(ids, "input_ids", ids)) if payload.get("return_token_ids") else None,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self.send(200, {"data": [{"id": "tiny", "max_model_len": 2048}], "version": "0.0.stand-in"})

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_chat = self.path == "/v1/chat/completions"
        self.send(200 if is_chat else 404, self.server.reply(payload) if is_chat else {"error": "unknown"})

    def send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, Answer], tuple[Server, ChatServer]]]:
    """Starts a server with the tokenizer of that folder and these answers."""
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.05)
    servers: list[ChatServer] = []

    def start(tokenizer: Path, answer: Answer) -> tuple[Server, ChatServer]:
        servers.append(ChatServer(tokenizer, answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"
        return Server(variant="int8", url=url, served_name="tiny", model_path=str(tokenizer)), servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def model(tiny_model: Path, folder: Path, template: str = TEMPLATE.replace("OPEN", "")) -> Path:
    """A model's tokenizer with this chat template."""
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def questions_of(folder: Path, tokenizer: Path, **settings: Any) -> Questions:
    """Four sums as a custom task, with these settings of the task's row."""
    (folder / "sums").mkdir(parents=True, exist_ok=True)
    (folder / "sums" / "set.yaml").write_text("name: sums\ndescription: Sums.\nanswer: exact\nstop: ['#']\n")
    lines = [{"id": str(item), "question": f"{item} + 1?", "answer": str(item + 1)} for item in range(ITEMS)]
    (folder / "sums" / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = replace(custom_task(read_set(folder / "sums")), **{"chat": "yes", **settings})
    suite = Suite("sums", "", (row,))
    return questions_on(suite, None, tokenizer, folder / f"{tokenizer.name}.parquet")  # type: ignore[arg-type]


def evaluated(server: Server, questions: Questions, folder: Path, ledger: Any = None) -> tuple[Scores, list[Any]]:
    file = folder / "records.parquet"
    scores = Evaluation(server, questions, "full", Step(None, "full", "int8")).run(file, Earlier(ledger))
    return scores, [] if scores.failure else records.read(file)


def right(payload: dict[str, Any]) -> str:
    """The right answer, after a thought that contains the stop sequence and a wrong answer."""
    (number,) = [int(word) for word in payload["messages"][-1]["content"].split() if word.isdecimal()][:1]
    return f"<think>\n# Is it 99?\n</think>\n\n{number + 1}\n# next"


def test_a_chat_is_sent_as_messages_and_scored_without_its_thinking(
    tiny_model: Path, tmp_path: Path, served: Any
) -> None:
    tokenizer = model(tiny_model, tmp_path / "model")
    server, chat_server = served(tokenizer, right)
    scores, rows = evaluated(server, questions_of(tmp_path, tokenizer), tmp_path)
    assert scores.failure == ""
    assert scores.tasks[0].score == 1.0
    assert scores.tasks[0].settings.chat
    assert [message["role"] for message in chat_server.chats[0]["messages"]] == ["user"]
    assert all(chat["stop"] == [] and chat["return_token_ids"] for chat in chat_server.chats)
    for row in rows:
        assert row.answer.strip() == str(row.item_id + 1)
        assert row.thinking_tokens == len("# Is it 99?")  # the tokenizer has a token for each byte
        assert row.answer_tokens == len("<think>\n# Is it 99?\n</think>\n\n1\n# next")
        assert not row.cut
    lengths = scores.tasks[0].lengths
    assert lengths is not None
    assert lengths.thinking_median == len("# Is it 99?")
    content = chat_server.chats[0]["messages"][0]["content"]
    assert rows[0].tokens == len(f"[user]{content}\n[assistant]")


def test_an_answer_that_is_cut_while_thinking_is_empty_and_wrong(tiny_model: Path, tmp_path: Path, served: Any) -> None:
    tokenizer = model(tiny_model, tmp_path / "model", TEMPLATE.replace("OPEN", "<think>"))
    server, _ = served(tokenizer, lambda payload: "x" * payload["max_tokens"])
    scores, rows = evaluated(server, questions_of(tmp_path, tokenizer, max_tokens=900), tmp_path)
    assert scores.tasks[0].score == 0.0
    assert scores.tasks[0].cut == ITEMS
    assert {(row.answer, row.cut, row.answer_tokens, row.thinking_tokens) for row in rows} == {("", True, 900, 900)}
    assert {row.answer_limit for row in rows} == {900}


def test_each_question_is_asked_several_times_with_seeds_that_all_variants_share(
    tiny_model: Path, tmp_path: Path, served: Any
) -> None:
    tokenizer = model(tiny_model, tmp_path / "model")
    questions = questions_of(tmp_path, tokenizer, samples=3, temperature=0.6)
    server, chat_server = served(tokenizer, lambda chat: right(chat) if chat["seed"] % 3 else "wrong")
    with closing(Ledger(tmp_path / "ledger.sqlite", "tiny")) as ledger:
        scores, rows = evaluated(server, questions, tmp_path, ledger)
        again, _ = evaluated(server, questions, tmp_path, ledger)
    task = scores.tasks[0]
    assert task.score == pytest.approx(2 / 3)
    assert (task.items, task.answers) == (ITEMS, 3 * ITEMS)
    assert scores.planned_items == ITEMS
    assert sorted((row.item_id, row.sample) for row in rows) == [(item, at) for item in range(ITEMS) for at in range(3)]
    assert {chat["temperature"] for chat in chat_server.chats} == {0.6}
    assert {chat["seed"] for chat in chat_server.chats} == {1234, 1235, 1236}
    assert len(chat_server.chats) == 3 * ITEMS
    assert again.tasks == scores.tasks
    assert again.reused == 3 * ITEMS
    assert task.settings.samples == 3
    (stated,) = task.settings.generation
    sampling = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    assert {name: stated[name] for name in sampling} == dict(zip(sampling, (0.6, 1, 0, 0), strict=True))
    assert all({name: chat[name] for name in sampling}.items() <= stated.items() for chat in chat_server.chats)


def test_a_server_with_another_template_is_a_failure_and_no_score(
    tiny_model: Path, tmp_path: Path, served: Any
) -> None:
    tokenizer = model(tiny_model, tmp_path / "model")
    other = model(tiny_model, tmp_path / "other", TEMPLATE.replace("OPEN", "Well, "))
    server, _ = served(other, right)
    questions = questions_of(tmp_path, tokenizer)
    scores, _ = evaluated(server.model_copy(update={"model_path": str(tokenizer)}), questions, tmp_path)
    assert "The server has another chat template than the model" in scores.failure
    assert scores.tasks == ()


def test_a_chat_has_the_special_tokens_of_its_template_alone(tiny_model: Path, tmp_path: Path, served: Any) -> None:
    folder = model(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    tokenizer.bos_token = "<eos>"
    tokenizer.save_pretrained(folder)
    server, _ = served(folder, right)
    scores, _ = evaluated(server, questions_of(tmp_path, folder), tmp_path)
    assert (scores.failure, scores.tasks[0].score) == ("", 1.0)


def test_a_plan_that_needs_a_template_is_refused_without_one(tiny_model: Path, tmp_path: Path) -> None:
    generated = PLAN.model_copy(update={"suite": "instructions"})
    with_one = model(tiny_model, tmp_path / "model")
    assert checks.with_template(generated.model_copy(update={"chat": "auto"}), str(with_one)).has_template
    assert not checks.with_template(generated.model_copy(update={"chat": "auto"}), str(tiny_model)).has_template
    with pytest.raises(PrerequisiteError, match="has no chat template. Run it with --chat no, or --chat auto."):
        checks.with_template(generated.model_copy(update={"chat": "yes"}), str(tiny_model))


def test_options_for_generated_answers_are_refused_for_a_suite_without_any(tmp_path: Path) -> None:
    tasks = [SimpleNamespace(reads_scores=True)]
    with pytest.raises(
        PrerequisiteError, match="--samples, --temperature: only for generated answers, and the suite demo"
    ):
        checks.check_generated(PLAN.model_copy(update={"samples": 2, "temperature": 0.6}), tasks)  # type: ignore[arg-type]
    checks.check_generated(PLAN.model_copy(update={"chat": "auto"}), tasks)  # type: ignore[arg-type]
    tasks.append(SimpleNamespace(reads_scores=False))
    checks.check_generated(PLAN.model_copy(update={"samples": 2, "temperature": 0.6}), tasks)  # type: ignore[arg-type]


ROW = SuiteTask("gsm8k", "exact_match", 5, 0.0, 10, 100)


def test_ifeval_alone_of_the_shipped_tasks_is_asked_in_a_chat_without_the_option() -> None:
    chats = {row.task: row.chat for suite in SUITES.values() for row in suite.tasks if row.chat != "no"}
    assert chats == {"ifeval": "auto"}


@pytest.mark.parametrize(
    ("option", "suite", "has_template", "chat"),
    [
        ("", "no", True, "no"),
        ("auto", "no", True, "yes"),
        ("auto", "no", False, "no"),
        ("", "auto", True, "yes"),
        ("no", "auto", True, "no"),
        ("yes", "no", False, "yes"),
    ],
)
def test_auto_is_decided_by_the_models_template(option: str, suite: str, has_template: bool, chat: str) -> None:
    plan = PLAN.model_copy(update={"chat": option, "has_template": has_template})
    assert protocol.of_plan(replace(ROW, chat=suite), plan).chat == chat


def test_the_plans_options_come_before_the_suites() -> None:
    plan = PLAN.model_copy(update={"samples": 4, "temperature": 0.6, "max_answer_tokens": 4096})
    settings = protocol.of_plan(replace(ROW, samples=2, temperature=1.0), plan)
    assert (settings.samples, settings.temperature, settings.max_tokens) == (4, 0.6, 4096)
    unchanged = protocol.of_plan(replace(ROW, samples=2, temperature=1.0, max_tokens=99), PLAN)
    assert (unchanged.samples, unchanged.temperature, unchanged.max_tokens) == (2, 1.0, 99)


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(PrerequisiteError, match="4 samples at temperature 0 are 4 times the same answer"):
        protocol.of_plan(ROW, PLAN.model_copy(update={"samples": 4}))
    with pytest.raises(PrerequisiteError, match="Unknown --chat 'maybe'. Choose from: no, auto, yes"):
        protocol.of_plan(ROW, PLAN.model_copy(update={"chat": "maybe"}))
