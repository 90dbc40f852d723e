"""A run's signature: proof that whoever recorded it knew this account's own password or token.

MLflow's client sets `mlflow.user` itself, and MLflow does not say who wrote a run. So `track` signs the run's id and
its evidence digest with a key from the credentials with which it writes. Another account can copy a signature, but it
fits no other run and no other digest. After a change of the password or of the server's name, runs are no longer
recognized.
"""

import hashlib
import hmac
import os
from functools import cache
from typing import TYPE_CHECKING

from quantgate.components.tracking.connect import TOKEN, host_of
from quantgate.components.tracking.tags import EVIDENCE, SIGNATURE
from quantgate.components.tracking.uris import is_server

if TYPE_CHECKING:
    from mlflow.entities import Run

USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
SALT = "quantgate signs a run of MLflow at "
COST = {"n": 2**14, "r": 8, "p": 1}
"""Of scrypt: 16 MiB and a twentieth of a second for each guess of a password."""


def has_account(tracking_uri: str) -> bool:
    """Whether runs are recorded there with credentials that can sign."""
    return bool(is_server(tracking_uri) and _secret())


def signature(run_id: str, evidence: str, tracking_uri: str) -> str:
    """The signature of a run with this evidence digest; empty without an account or a digest."""
    if not evidence or not has_account(tracking_uri):
        return ""
    key = _key(_secret(), host_of(tracking_uri))
    return hmac.new(key, f"{run_id}\n{evidence}".encode(), hashlib.sha256).hexdigest()


def is_signed(run: "Run", tracking_uri: str) -> bool:
    """Whether this account signed the run."""
    expected = signature(run.info.run_id, run.data.params.get(EVIDENCE, ""), tracking_uri)
    given = str(run.data.tags.get(SIGNATURE, ""))
    return bool(expected) and hmac.compare_digest(expected.encode(), given.encode())


def _secret() -> str:
    """The password or the token; MLflow's client prefers the first too."""
    password = os.environ.get(PASSWORD, "") if os.environ.get(USERNAME) else ""
    return password or os.environ.get(TOKEN, "")


@cache
def _key(secret: str, host: str) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=f"{SALT}{host}".encode(), dklen=32, **COST)
