"""A small OpenAI-like server for chats: each request is answered by a function of its messages."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = Callable[[dict[str, Any]], Any]
"""From a request's body to a message (a dict), a text, an HTTP status or one with its text (a tuple), or the whole body
of the answer (a list)."""


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    """A message that calls one tool."""
    call = {"id": "call-1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


class ScriptedChat(http.server.ThreadingHTTPServer):
    """Answers by the script, and keeps the requests."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: ScriptedChat
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "tiny", "max_model_len": 2048}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(self.headers.get("Authorization", ""))
        answer = self.server.answer(body)
        if isinstance(answer, int):
            self.reply(answer, {"error": "refused by the script"})
        elif isinstance(answer, tuple):
            self.reply(answer[0], {"error": answer[1]})
        elif isinstance(answer, list):
            self.reply(200, answer)
        else:
            message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 3}})


@contextmanager
def scripted(answer: Answer) -> Iterator[ScriptedChat]:
    """The running server."""
    server = ScriptedChat(answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
