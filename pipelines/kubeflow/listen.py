"""Listen to MLflow's webhook, and look at the registered model when it has a new version.

MLflow signs each delivery as Standard Webhooks do. It repeats one that was answered with 429 or 5xx, and one that was
not answered in 30 s; a repeated look starts nothing. https://mlflow.org/docs/latest/ml/webhooks/
"""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.model_versions import registered_name
from quantgate.pipelines.kubeflow.look import Watch, look
from quantgate.pipelines.terminal_output import print_text

SECRET = "QUANTGATE_WEBHOOK_SECRET"
SHORTEST_SECRET = 16
SIGNATURE, DELIVERY, TIMESTAMP = (f"X-MLflow-{name}" for name in ("Signature", "Delivery-Id", "Timestamp"))
FRESH_S = 300
"""A delivery with another time is refused: it may be an old one that somebody has recorded."""
LONGEST_BODY = 1 << 20
IDLE_S = 10
"""How long a client may take to send the next part of its request."""
HEALTH = "/health"


class RefusedDeliveryError(Exception):
    """A request that is not a fresh delivery of this MLflow's; the client gets the status and the message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """MLflow's signature of a delivery: `v1,` and HMAC-SHA256 in base64."""
    content = f"{delivery_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(secret.encode(), content, hashlib.sha256)).decode()}"


def verified(secret: str, headers: Message, body: bytes, now_s: float) -> dict[str, Any]:
    """The event of a delivery; raises RefusedDeliveryError unless MLflow has signed it with the secret, just now."""
    sent, delivery_id, timestamp = (headers.get(name) or "" for name in (SIGNATURE, DELIVERY, TIMESTAMP))
    if not hmac.compare_digest(sent.encode(), signature(secret, delivery_id, timestamp, body).encode()):
        raise RefusedDeliveryError(HTTPStatus.UNAUTHORIZED, "The signature is not that of this webhook's secret.")
    if not timestamp.isdecimal() or abs(now_s - int(timestamp)) > FRESH_S:
        raise RefusedDeliveryError(HTTPStatus.BAD_REQUEST, f"The delivery is not of the last {FRESH_S} s.")
    try:
        event = json.loads(body)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise RefusedDeliveryError(HTTPStatus.BAD_REQUEST, "The body is not an event.")
    return event


class WebhookServer(ThreadingHTTPServer):
    """The server: it answers health checks, and looks at the registered model when MLflow reports a new version."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], watch: Watch, secret: str) -> None:
        """Raises PrerequisiteError when the address cannot be used."""
        self.watch, self.secret = watch, secret
        self.model = registered_name(watch.source)
        self.one_look = threading.Lock()
        try:
            super().__init__(address, Delivery)
        except OSError as error:
            raise PrerequisiteError(
                f"Cannot listen on {address[0]}, port {address[1]}: {error.strerror}. Give others with --bind and "
                "--port."
            ) from None

    def look(self) -> str:
        """One look at a time; prints what was seen and done."""
        with self.one_look:
            line = look(self.watch)
        print_text(line)
        return line

    def answered(self, event: Mapping[str, Any]) -> tuple[HTTPStatus, str]:
        """The answer to an event; after a failed look a status after which MLflow repeats the delivery."""
        if (event.get("entity"), event.get("action")) != ("model_version", "created"):
            return HTTPStatus.OK, "Not a new version of a model: ignored."
        if event["data"].get("name") != self.model:
            return HTTPStatus.OK, f"Not a version of {self.model}: ignored."
        try:
            return HTTPStatus.OK, self.look()
        except PrerequisiteError as error:
            print_text(f"quantgate: {error}", to_stderr=True)
            return HTTPStatus.SERVICE_UNAVAILABLE, "The look failed; the log of the listener says why."


class Delivery(BaseHTTPRequestHandler):
    """One request."""

    server: WebhookServer
    timeout = IDLE_S

    def do_GET(self) -> None:
        """A health check."""
        is_health_check = self.path == HEALTH
        self.reply(
            HTTPStatus.OK if is_health_check else HTTPStatus.NOT_FOUND,
            "ok" if is_health_check else "MLflow posts here.",
        )

    def do_POST(self) -> None:
        """A delivery."""
        try:
            event = verified(self.server.secret, self.headers, self.body(), time.time())
        except RefusedDeliveryError as refusal:
            print_text(f"refused a delivery from {self.client_address[0]}: {refusal}", to_stderr=True)
            self.reply(refusal.status, str(refusal))
            return
        self.reply(*self.server.answered(event))

    def body(self) -> bytes:
        """The body; raises RefusedDeliveryError for one without a length, and for one that is too long."""
        length = self.headers.get("Content-Length") or ""
        if not length.isdecimal():
            raise RefusedDeliveryError(HTTPStatus.LENGTH_REQUIRED, "The request has no Content-Length.")
        if int(length) > LONGEST_BODY:
            raise RefusedDeliveryError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is longer than {LONGEST_BODY} bytes."
            )
        return self.rfile.read(int(length))

    def reply(self, status: HTTPStatus, message: str) -> None:
        """Answer with one line of text."""
        content = f"{message}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing: the looks and the refusals are printed."""


def listen(watch: Watch, bind: str, port: int) -> None:
    """Look once, then at each new version that MLflow reports, until the process is ended."""
    secret = os.environ.get(SECRET, "").strip()
    if len(secret) < SHORTEST_SECRET:
        raise PrerequisiteError(
            f"Set {SECRET} to the webhook's secret, {SHORTEST_SECRET} characters or more: openssl rand -hex 32"
        )
    with WebhookServer((bind, port), watch, secret) as server:
        server.look()  # a version of the time when nobody listened
        print_text(f"listening on http://{bind}:{server.server_port} for new versions of {server.model}")
        server.serve_forever()
