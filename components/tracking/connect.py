"""An MLflow client that is known to answer, and MLflow's refusals in words a user can act on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from components.errors import PrerequisiteError
from components.tracking.uris import SQLITE, is_database, is_server, sqlite_file, without_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow reads these when it is imported; what the user has set stays."""

_FIRST_ANSWER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_WRITING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow's own limits, 120 s and 7 retries, would wait a quarter of an hour for a server that is not there."""

HOSTS = "QUANTGATE_TRACKING_HOSTS"
"""Names of the servers that may be sent credentials, separated by commas; `*` stands for any characters."""
_STAY = {"MLFLOW_ALLOW_HTTP_REDIRECTS": "false"}
"""A server of the list could send us on to one that is not."""

TOKEN = "MLFLOW_TRACKING_TOKEN"
_LONGEST_WORDS = 500
"""Characters of what a server said: a page for browsers is long."""

_OUR_FAULTS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_NOT_LET_IN = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}


@contextmanager
def connected(tracking_uri: str, doing: str) -> Iterator["MlflowClient"]:
    """A client of the store at `tracking_uri`; raises PrerequisiteError when it cannot be reached or refuses a request.

    `doing` is what the error says that MLflow did not do. An MLflow error that says that we asked for nonsense is a
    fault of ours and passes through.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    client = _answering_client(tracking_uri)
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    try:
        with _environment(_WRITING | _redirects()):
            yield client
    except MlflowException as refusal:
        if refusal.error_code in _OUR_FAULTS:
            raise
        raise _refused(tracking_uri, doing, refusal) from refusal
    except (OSError, Boto3Error, BotoCoreError, ClientError) as refusal:
        raise _refused(tracking_uri, doing, refusal) from refusal


def check_no_password(tracking_uri: str) -> None:
    """Raise PrerequisiteError for a server's address with a password in it, which a run would keep in its files."""
    if is_server(tracking_uri) and without_password(tracking_uri) != tracking_uri:
        raise PrerequisiteError(
            f"{without_password(tracking_uri)} holds a name or a password, which the run would keep in its files. Give"
            " the address alone, and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )


def check_host(tracking_uri: str) -> None:
    """Raise PrerequisiteError for a server that $QUANTGATE_TRACKING_HOSTS, where it is set, does not name.

    It is called before anything is sent: MLflow sends its credentials with the first request. A list lets in SQLite
    files, and servers by their names; of a database on a server only `*` does.
    """
    allowed = os.environ.get(HOSTS, "")
    if not allowed or tracking_uri.startswith(SQLITE):
        return
    host = _host(tracking_uri)
    if not any(fnmatch(host, each.strip().lower()) for each in allowed.split(",")):
        raise PrerequisiteError(
            f"The tracking server {host or without_password(tracking_uri)} is not among those that ${HOSTS} allows "
            f"({allowed}). Nothing was sent to it."
        )


def _host(tracking_uri: str) -> str:
    """Where MLflow's client would connect to, read with the parser that it uses; empty for what is no server's URI."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        return (parse_url(tracking_uri).host or "").strip("[]") if is_server(tracking_uri) else ""
    except LocationParseError:
        return ""


def _check_token() -> None:
    """HTTP's libraries tell what they cannot send, and a token is to be told nobody."""
    if any(each.isspace() for each in os.environ.get(TOKEN, "")):
        raise PrerequisiteError(
            f"${TOKEN} holds a space or a line break, which no token does. Set it without: a secret made from a file "
            "keeps the file's last line break."
        )


def _answering_client(tracking_uri: str) -> "MlflowClient":
    if not tracking_uri:  # MLflow would take an empty one for mlflow.db in the current folder
        raise PrerequisiteError(
            "No MLflow tracking URI was given. Give http://<server>, or sqlite:///<folder>/mlflow.db."
        )
    check_host(tracking_uri)
    _check_token()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if is_database(tracking_uri):
            _check_database(tracking_uri)
        with _environment(_FIRST_ANSWER | _redirects()):
            client = MlflowClient(tracking_uri=tracking_uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as cause:
        raise _not_reached(tracking_uri, cause) from cause
    return client


def _check_database(tracking_uri: str) -> None:
    """Fail at once where MLflow would try ten times over 100 s to open a database that is not there."""
    import sqlalchemy

    if tracking_uri.startswith(SQLITE):
        sqlite_file(tracking_uri).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(tracking_uri, poolclass=sqlalchemy.NullPool)
    sqlalchemy.inspect(engine).get_table_names()


@contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """The variables, where the user has not set them, for as long as the block lasts."""
    ours = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _redirects() -> dict[str, str]:
    return _STAY if os.environ.get(HOSTS) else {}


def _not_reached(tracking_uri: str, cause: Exception) -> PrerequisiteError:
    place, words = without_password(tracking_uri), _words(cause)
    if getattr(cause, "error_code", "") in _NOT_LET_IN:
        return PrerequisiteError(
            f"MLflow at {place} does not let this run in: {words}\n"
            f"Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or {TOKEN}, to what it knows."
        )
    certificates = (
        " MLFLOW_TRACKING_SERVER_CERT_PATH names the file of the authority that signed its certificate, and "
        "MLFLOW_TRACKING_CLIENT_CERT_PATH that of your own certificate and its key, where it asks for one."
    )
    return PrerequisiteError(
        f"MLflow cannot be reached at {place}: {words}\nCheck the tracking URI and that the MLflow server runs."
        f"{certificates if tracking_uri.startswith('https:') else ''} "
        "Without a server, use a local file: sqlite:///<folder>/mlflow.db."
    )


def _refused(tracking_uri: str, doing: str, cause: Exception) -> PrerequisiteError:
    return PrerequisiteError(
        f"MLflow at {without_password(tracking_uri)} did not {doing}: {_words(cause)}\n"
        "Put that right and do the same again: what was written so far stays, and is completed, not doubled."
    )


def _words(cause: Exception) -> str:
    words = without_password(" ".join(str(cause).split()) or type(cause).__name__).rstrip(".")
    return f"{words[:_LONGEST_WORDS]} …" if len(words) > _LONGEST_WORDS else f"{words}."
