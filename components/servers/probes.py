"""Requests that show whether the server at an address is the one that a run started."""

import secrets

import httpx

from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers import access
from quantgate.components.servers.llama_options import KEY_VARIABLE as LLAMA_KEY


def lists_our_model(server: Server) -> bool:
    """Whether the endpoint answers with our model: another process may have taken the port in the meantime."""
    try:
        headers = access.headers(access.key_of(server))
        # no proxy leads to a server of ours
        answer = httpx.get(f"{server.url}/models", headers=headers, timeout=5.0, trust_env=False)
        return answer.status_code == 200 and server.served_name in (model["id"] for model in answer.json()["data"])
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return False


def status_with(server: Server, key: str) -> int:
    """The HTTP status of a request with that key, "" for none, which everybody who reaches the server can send.

    0 for no answer yet.
    """
    try:
        headers = access.headers(key)
        return httpx.get(f"{server.url}/models", headers=headers, timeout=5.0, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def answers_strangers(server: Server) -> str:
    """That the server answers a request without its key, or with another one; "" otherwise."""
    variable = LLAMA_KEY if server.engine_name == LLAMA_CPP else access.KEY_VARIABLE
    for key, without in (("", "without its API key"), (secrets.token_urlsafe(32), "with a wrong API key")):
        if 200 <= status_with(server, key) < 300:
            return (
                f"The server at {server.url} answers a request {without}: it is not the one that this run started, or "
                f"its {server.engine_name} does not read ${variable}."
            )
    return ""


def refused_key(server: Server) -> str:
    """That the server on a cluster refuses its own key, and why that can be; "" otherwise."""
    if status_with(server, access.key_of(server)) != 401:
        return ""
    return (
        f"the server at {server.url} refuses the API key of its start: another one answers there, it was given another "
        "key, or the Secret quantgate-servers was changed since it started."
    )


def why_not_listed(server: Server) -> str:
    """What to check when a server on a cluster, which is ready, does not list our model."""
    return refused_key(server) or (
        f"{server.url}/models does not list {server.served_name} for this pod. Check that the network policies let "
        "this pod reach the server, and check QUANTGATE_SERVING_ADDRESS."
    )
