"""An S3 that takes no aws-chunked bodies, over TLS, where boto3 sends a checksum as a trailer of such a body."""

import base64
import datetime
import hashlib
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.location import open_store
from quantgate.components.storage.s3_advice import advice_on

VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"


class PlainS3(http.server.BaseHTTPRequestHandler):
    """PUT, GET, HEAD and DELETE of objects; a body in chunks is refused with 501, as by Infomaniak's or older Ceph."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    checksums: list[str]

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def reply(self, status: int, body: bytes = b"", etag: str = "") -> None:
        """Send the body; to HEAD, its size."""
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        """Store the body, unless it comes in chunks."""
        if self.headers.get("Content-Encoding") == "aws-chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():
                pass
            return self.reply(501, b"<Error><Code>NotImplemented</Code><Message>no aws-chunked</Message></Error>")
        self.checksums.extend(name for name in self.headers if name.lower().startswith("x-amz-checksum"))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[self.path.partition("?")[0]] = body
        return self.reply(200, etag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_GET(self) -> None:
        """An object, or the list of all of them."""
        body = self.objects.get(self.path.partition("?")[0])
        if "list-type=2" in self.path:
            self.reply(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        elif body is None:
            self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.reply(200, body, f'"{hashlib.md5(body).hexdigest()}"')

    def do_HEAD(self) -> None:
        """An object's size."""
        self.do_GET()

    def do_DELETE(self) -> None:
        """Remove an object."""
        self.objects.pop(self.path.partition("?")[0], None)
        self.reply(204)


def certificate(file: Path) -> Path:
    """A key and a certificate for 127.0.0.1, which signs itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    today = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(days=1))
    signed = builder.not_valid_after(today + datetime.timedelta(days=1)).add_extension(address, critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(secret + signed.sign(key, hashes.SHA256()).public_bytes(pem))
    return file


@pytest.fixture
def plain_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[PlainS3]]:
    """The server, with the environment of a client of it."""
    handler = type("OwnS3", (PlainS3,), {"objects": {}, "checksums": []})
    file = certificate(tmp_path / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "any")
        monkeypatch.delenv(VARIABLE, raising=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield handler
        server.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with one small file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.fault(
    "machine", "An S3 takes no aws-chunked bodies", "works with AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
def test_an_s3_without_chunked_bodies_works_when_no_checksum_is_required(
    plain_s3: type[PlainS3], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "when_required")
    store = open_store("s3://bucket/prefix")
    store.put_folder(model, "m", "d1")
    assert store.get_text("m/config.json") == "{}"
    assert (store.get_folder("m", tmp_path / "cache") / "config.json").read_text() == "{}"
    assert plain_s3.checksums == []


@pytest.mark.fault("machine", "The same S3, without that setting", "a permanent refusal that names the setting")
@pytest.mark.usefixtures("plain_s3")
def test_a_refused_body_is_a_permanent_refusal_with_the_setting(model: Path) -> None:
    store = open_store("s3://bucket/prefix")
    writes: list[Callable[[], str]] = [
        lambda: store.put_file(model / "config.json", "x"),
        lambda: store.put_text("x", "x"),
    ]
    for write in writes:
        with pytest.raises(PrerequisiteError, match=rf"refuses this for good.* set {VARIABLE}=when_required") as said:
            write()
        assert "try again later" not in str(said.value)


def test_bytes_that_a_server_without_checksums_changed_are_found(
    plain_s3: type[PlainS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(dict[str, bytes]):
        def __setitem__(self, key: str, value: bytes) -> None:
            super().__setitem__(key, base64.b16encode(value)[: len(value)])

    plain_s3.objects = Damaged()
    monkeypatch.setenv(VARIABLE, "when_required")
    with pytest.raises(PrerequisiteError, match="another size or SHA-256 than was sent"):
        open_store("s3://bucket/prefix").put_text("text", "x")
    assert plain_s3.objects == {}


@pytest.mark.fault("machine", "An S3 refuses a request with 400, 403 or 501", "reported as permanent, with what to do")
@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (400, "InvalidArgument", VARIABLE),
        (403, "SignatureDoesNotMatch", VARIABLE),
        (403, "AccessDenied", "ask for read and write rights"),
        (403, "QuotaExceeded", "refuses this for good (HTTP 403)"),
        (501, "NotImplemented", VARIABLE),
        (501, "Other", "refuses this for good (HTTP 501)"),
        (500, "InternalError", "try again later"),
        (503, "SlowDown", "try again later"),
    ],
)
def test_only_a_failure_of_the_server_is_worth_another_try(status: int, code: str, advice: str) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    said = advice_on(ClientError(answer, "PutObject")) or ""
    assert advice in said
    assert ("try again later" in said) == (status in (500, 503))
