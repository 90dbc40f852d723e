"""The API key of a server on a cluster: a fresh one for each start, in a Kubernetes Secret of that start.

The key is computed from the Secret's name, which ends with the uid of the start's Lease, and from a secret that only
the steps have which start a server or ask it. So each of these steps knows the key, and no account needs the right to
read Secrets, which would be all of the namespace's. The server's pod gets nothing but its own key, by reference.
"""

import hashlib
import hmac
import os

from quantgate.components.errors import PrerequisiteError

SERVERS_SECRET = "QUANTGATE_SERVERS_SECRET"
"""The variable with the secret from which the keys are computed: a key of the Secret `quantgate-servers`."""
SHORTEST = 32


def start_key(secret_name: str) -> str:
    """The API key in the Secret of that name; raises PrerequisiteError when this process has not the servers' secret.

    Who sees a key learns nothing of another start's.
    """
    message = f"quantgate: the API key in {secret_name}"
    return hmac.new(servers_secret().encode(), message.encode(), hashlib.sha256).hexdigest()


def servers_secret() -> str:
    """The secret from which the keys are computed; raises PrerequisiteError when it is missing or can be guessed."""
    secret = os.environ.get(SERVERS_SECRET, "").strip()
    if len(secret) < SHORTEST:
        found = "is too short" if secret else "is not set"
        raise PrerequisiteError(
            f"${SERVERS_SECRET} {found}: the API keys of the servers are made from it. Fill in the Secret "
            f"quantgate-servers (manifests/secrets) with {SHORTEST} random characters or more: openssl rand -hex 32"
        )
    return secret
