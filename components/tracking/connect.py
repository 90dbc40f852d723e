"""An MLflow client that is known to answer, and error messages for MLflow's refusals."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.kubeflow_run import others_login
from quantgate.components.tracking.uris import SQLITE, is_database, is_server, sqlite_file, without_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow reads these when it is imported. A variable that the user has set stays."""

_FIRST_ANSWER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_WRITING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow's own limits, 120 s and 7 retries, would wait a quarter of an hour for a server that is down."""

HOSTS = "QUANTGATE_TRACKING_HOSTS"
"""Host names of the servers that may receive credentials, separated by commas; `*` matches any characters."""
_NO_REDIRECTS = {"MLFLOW_ALLOW_HTTP_REDIRECTS": "false"}
"""An allowed server could redirect the client, with its credentials, to a server that is not allowed."""

TOKEN = "MLFLOW_TRACKING_TOKEN"
_LONGEST_REASON = 500
"""Characters of a server's answer in an error message: an HTML page is long."""

_PROGRAMMING_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
ACCESS_DENIED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}


@contextmanager
def connected(tracking_uri: str, action: str) -> Iterator["MlflowClient"]:
    """A client of the store at `tracking_uri`; raises PrerequisiteError when it cannot be reached or refuses a request.

    `action` completes the error message "MLflow did not <action>". An MLflow error about an invalid request is a bug in
    quantgate and passes through.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    client = _answering_client(tracking_uri)
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    try:
        with _environment(_WRITING | _redirect_settings(), others_login(tracking_uri)):
            yield client
    except MlflowException as refusal:
        if refusal.error_code in _PROGRAMMING_ERRORS:
            raise
        raise _refused(tracking_uri, action, refusal) from refusal
    except (OSError, Boto3Error, BotoCoreError, ClientError) as refusal:
        raise _refused(tracking_uri, action, refusal) from refusal


def check_no_password(tracking_uri: str) -> None:
    """Raise PrerequisiteError for a server's address with a user name or a password in it.

    The run would store them in its files.
    """
    if is_server(tracking_uri) and without_password(tracking_uri) != tracking_uri:
        raise PrerequisiteError(
            f"{without_password(tracking_uri)} contains a user name or a password, which the run would store in its"
            " files. Give the address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )


def check_host(tracking_uri: str) -> None:
    """Raise PrerequisiteError for a server that $QUANTGATE_TRACKING_HOSTS, if set, does not allow.

    Call it before any request: MLflow sends its credentials with the first one. A list allows SQLite files and servers
    by their host names; only `*` allows a database on a server.
    """
    allowed = os.environ.get(HOSTS, "")
    if not allowed or tracking_uri.startswith(SQLITE):
        return
    host = host_of(tracking_uri)
    patterns = [pattern.strip().lower() for pattern in allowed.split(",")]
    if not any(pattern and fnmatch(host, pattern) for pattern in patterns):
        raise PrerequisiteError(
            f"The tracking server {host or without_password(tracking_uri)} is not among those that ${HOSTS} allows "
            f"({allowed}). Nothing was sent to it. Use an allowed server, or add this one to ${HOSTS}."
        )


def host_of(tracking_uri: str) -> str:
    """The host that MLflow's client would connect to, read with the client's own parser; empty without a server."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        return (parse_url(tracking_uri).host or "").strip("[]") if is_server(tracking_uri) else ""
    except LocationParseError:
        return ""


def _check_token() -> None:
    """Raise PrerequisiteError for a token with white space.

    HTTP libraries refuse it with an error message that quotes the token, which must stay secret.
    """
    if any(character.isspace() for character in os.environ.get(TOKEN, "")):
        raise PrerequisiteError(
            f"${TOKEN} contains a space or a line break, which no token does. Remove it: a secret made from a file "
            "keeps the file's last line break."
        )


def _answering_client(tracking_uri: str) -> "MlflowClient":
    if not tracking_uri:  # for an empty URI MLflow would use mlflow.db in the current folder
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
        with _environment(_FIRST_ANSWER | _redirect_settings(), others_login(tracking_uri)):
            client = MlflowClient(tracking_uri=tracking_uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as cause:
        raise _not_reached(tracking_uri, cause) from cause
    return client


def _check_database(tracking_uri: str) -> None:
    """Fail at once if the database is unavailable: MLflow would try ten times over 100 s to open it."""
    import sqlalchemy

    if tracking_uri.startswith(SQLITE):
        sqlite_file(tracking_uri).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(tracking_uri, poolclass=sqlalchemy.NullPool)
    sqlalchemy.inspect(engine).get_table_names()


@contextmanager
def _environment(defaults: dict[str, str], hidden: Collection[str]) -> Iterator[None]:
    """Set the variables for the block, except those that the user has set, and hide others."""
    removed = {name: os.environ.pop(name) for name in hidden if name in os.environ}
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.update(removed)


def _redirect_settings() -> dict[str, str]:
    return _NO_REDIRECTS if os.environ.get(HOSTS) else {}


def _not_reached(tracking_uri: str, cause: Exception) -> PrerequisiteError:
    address, reason = without_password(tracking_uri), _reason(cause)
    if getattr(cause, "error_code", "") in ACCESS_DENIED:
        return PrerequisiteError(
            f"MLflow at {address} denies access to this run: {reason}\n"
            f"Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or {TOKEN}, to credentials that it accepts."
        )
    certificates = (
        " MLFLOW_TRACKING_SERVER_CERT_PATH names the file of the authority that signed the server's certificate, and "
        "MLFLOW_TRACKING_CLIENT_CERT_PATH that of your own certificate with its key, if the server requires one."
    )
    return PrerequisiteError(
        f"MLflow cannot be reached at {address}: {reason}\nCheck the tracking URI and that the MLflow server runs."
        f"{certificates if tracking_uri.startswith('https:') else ''} "
        "Without a server, use a local file: sqlite:///<folder>/mlflow.db."
    )


def _refused(tracking_uri: str, action: str, cause: Exception) -> PrerequisiteError:
    return PrerequisiteError(
        f"MLflow at {without_password(tracking_uri)} did not {action}: {_reason(cause)}\n"
        "Fix the cause and repeat the command: it keeps what is already written and adds only what is missing."
    )


def _reason(cause: Exception) -> str:
    text = without_password(" ".join(str(cause).split()) or type(cause).__name__).rstrip(".")
    return f"{text[:_LONGEST_REASON]} …" if len(text) > _LONGEST_REASON else f"{text}."
