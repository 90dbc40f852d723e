"""Stands in for a judge or a chat model at the process edge: a small OpenAI-like server in a thread.

A judge reads what it is shown and decides by a simple rule, so a test can foresee each verdict. `Rule` gets the system
prompt and the user's text, and returns the answer's text, or an HTTP status with which the request fails.
"""

import contextlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rule = Callable[[list[dict[str, str]]], "str | int"]
MARKED = re.compile(r"<(?P<mark>[0-9a-f]{12}) (?P<name>[^>]*)>\n(?P<text>.*?)\n</(?P=mark)>", re.DOTALL)


def shown(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    """The named texts that a judge is shown."""
    return [(match["name"], match["text"]) for match in MARKED.finditer(messages[1]["content"])]


def length(messages: list[dict[str, str]], who: str) -> int:
    """The characters of all texts of this speaker."""
    return sum(len(text) for name, text in shown(messages) if name.startswith(who))


def prefers_longer(messages: list[dict[str, str]]) -> str:
    """The longer conversation wins; a grade is the number of words of the last reply, 1 to 10."""
    if "[[A]]" not in messages[0]["content"]:
        last = [text for name, text in shown(messages) if name == "assistant"][-1]
        return f"It has some words. [[{min(max(len(last.split()), 1), 10)}]]"
    a, b = length(messages, "assistant A"), length(messages, "assistant B")
    return f"One is longer. [[{'C' if a == b else 'A' if a > b else 'B'}]]"


def prefers_first(_messages: list[dict[str, str]]) -> str:
    """Position decides."""
    return "The first one convinces me. [[A]]"


def garbage(_messages: list[dict[str, str]]) -> str:
    """No verdict."""
    return "I like both, A] and [B."


class JudgeServer(http.server.ThreadingHTTPServer):
    """Answers chats by its rule; keeps the requests."""

    def __init__(self, rule: Rule, model: str, weights: str, key: str, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rule, self.model, self.weights, self.key, self.delay_s = rule, model, weights, key, delay_s
        self.asked: list[dict[str, Any]] = []
        self.refused: dict[str, str] = {}
        """Fields with which a request is refused, and the message."""

    @property
    def url(self) -> str:
        """The API's base."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    """/v1/models and /v1/chat/completions."""

    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def reply(self, status: int, body: object) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client gave up
            self.wfile.write(data)

    def is_let_in(self) -> bool:
        """Whether the request carries the key; refuses it otherwise."""
        if not self.server.key or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        self.reply(401, {"error": "no key"})
        return False

    def do_GET(self) -> None:
        """The list of models."""
        if self.is_let_in():
            self.reply(200, {"data": [{"id": self.server.model, "root": self.server.weights, "owned_by": "tests"}]})

    def do_POST(self) -> None:
        """One answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_let_in():
            return
        self.server.asked.append(body)
        time.sleep(self.server.delay_s)
        if refusals := [message for field, message in self.server.refused.items() if field in body]:
            self.reply(400, {"error": {"message": refusals[0]}})
            return
        answer = self.server.rule(body["messages"])
        if isinstance(answer, int):
            self.reply(answer, {"error": "refused"})
        else:
            message = {"role": "assistant", "content": answer}
            self.reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


@contextlib.contextmanager
def judge_server(
    rule: Rule, model: str = "the-judge", *, weights: str = "", key: str = "", delay_s: float = 0
) -> Iterator[JudgeServer]:
    """A server that answers by this rule, until the block ends."""
    server = JudgeServer(rule, model, weights, key, delay_s)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def echo(words: int) -> Rule:
    """A chat model that answers so many words, which name the turn."""

    def answer(messages: list[dict[str, str]]) -> str:
        turn = sum(message["role"] == "user" for message in messages)
        return " ".join([f"turn{turn}"] * words)

    return answer


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows as JSONL; returns the file."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file
