"""Which model answers at an address, and the check that a judge is none of the models that it judges.

A model prefers its own answers (A. Panickssery et al., LLM Evaluators Recognize and Favor Their Own Generations, arXiv
2404.13076), and a variant's answers are nearly the baseline's. So a judge with the address, the name, the weights' path
or the digest of a judged model is refused.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import digest_of, model_files
from quantgate.components.servers.access import REFUSED
from quantgate.components.servers.client import Client, RefusedError
from quantgate.components.servers.scoring_ways import BadAnswerError

HERE = ("localhost", "::1", "0.0.0.0")
PORTS = {"http": 80, "https": 443}
VLLM = "vllm"


@dataclass(frozen=True)
class ServedModel:
    """The model that answers at an address, or that gave saved answers."""

    model: str
    """The name under which it is served."""
    address: str = ""
    """Host, port and path of the API; empty for saved answers."""
    weights: str = ""
    """The folder or the hub's name of its weights, where the server reports it."""
    digest: str = ""
    """The digest of its weights; empty where it is unknown."""
    is_vllm: bool = False
    window: int = 0
    """Most tokens of a prompt and its answer together; 0 where the server does not report it."""

    @property
    def identity(self) -> str:
        """The name under which its answers are kept: the digest, or all that is known without one."""
        return self.digest or " ".join(filter(None, (self.model, self.weights, self.address)))

    @property
    def names(self) -> frozenset[str]:
        """The names by which it is known, in lower case."""
        return frozenset(name.lower() for name in (self.model, self.weights) if name)


def address_of(url: str) -> str:
    """Host, port and path of an API's base, the same for each spelling of one address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = parts.hostname or ""
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions").removesuffix("/v1")
    port = parts.port or PORTS.get(parts.scheme, 0)
    return f"{'127.0.0.1' if host in HERE else host}:{port}{path.rstrip('/')}"


def served_model(client: Client, advice: str) -> ServedModel:
    """The model behind the client; sets the client's model where it is empty (the server's first).

    Raises PrerequisiteError where no such model is served; `advice` says how the user gives a key.
    """
    entry = asyncio.run(_entry(client, advice))
    weights = str(entry.get("root") or "")
    return ServedModel(
        model=client.model,
        address=address_of(client.root),
        weights=weights,
        digest=digest_of_folder(weights),
        is_vllm=entry.get("owned_by") == VLLM,
        window=int(entry.get("max_model_len") or 0),
    )


async def _entry(client: Client, advice: str) -> dict[str, Any]:
    try:
        async with client.session() as session:
            listed = {str(model["id"]): dict(model) for model in (await client.get(session, "/v1/models"))["data"]}
    except RefusedError as error:
        if error.status in REFUSED:
            raise PrerequisiteError(f"{client.root} refuses the request (HTTP {error.status}). {advice}") from error
        raise PrerequisiteError(
            f"{client.root}/v1/models answers with HTTP {error.status}. Correct the URL."
        ) from error
    except (aiohttp.ClientError, TimeoutError, BadAnswerError, KeyError, TypeError, ValueError) as error:
        raise PrerequisiteError(
            f"No OpenAI-compatible server answers at {client.root}/v1/models ({type(error).__name__}: {error})."
        ) from error
    client.model = client.model or next(iter(listed), "")
    if client.model not in listed:
        raise PrerequisiteError(f"{client.root} serves {', '.join(listed) or 'no model'}, not {client.model!r}.")
    return listed[client.model]


def digest_of_folder(weights: str) -> str:
    """The digest of the model in a folder on this machine; "" for a hub's name or a folder elsewhere."""
    folder = Path(weights)
    if not weights or not folder.is_absolute() or not folder.is_dir():
        return ""
    try:
        return digest_of(folder) if model_files(folder) else ""
    except (OSError, PrerequisiteError):
        return ""


def check_judge(judge: ServedModel, judged: Sequence[tuple[str, ServedModel]]) -> None:
    """Raise PrerequisiteError when the judge is one of the judged models, given with their names in the results."""
    for name, model in judged:
        if model.address and model.address == judge.address:
            same = f"{judge.address} also serves {name}"
        elif model.digest and model.digest == judge.digest:
            same = f"its weights have the digest of {name}, {model.digest[:16]}"
        elif shared := judge.names & model.names:
            same = f"it is the same model as {name}, {sorted(shared)[0]}"
        else:
            continue
        raise PrerequisiteError(
            f"The judge {judge.model} cannot judge: {same}, and a model prefers its own answers. Name another model's "
            "server with --judge."
        )
