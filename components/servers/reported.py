"""What a started server reports about itself."""

import httpx

from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers.access import headers, key_of
from quantgate.components.servers.vllm_options import FLOAT32


def described(server: Server) -> Server:
    """The server with its engine's version, and with the data type in its identity where vLLM chose float32 itself.

    A vLLM image without our plugin chooses the model's own type, and a server that reports nothing keeps its image as
    its engine.
    """
    if server.engine_name == LLAMA_CPP:
        build = reported(server, "/props", "build_info")
        return server.model_copy(update={"engine": f"{LLAMA_CPP} {build}"}) if build else server
    version, dtype = reported(server, "/version", "version"), reported(server, "/quantgate", "dtype")
    identity, chosen = server.identity, dtype == FLOAT32[-1]
    if chosen and identity and identity.on_cpu and FLOAT32[0] not in identity.options:
        identity = identity.model_copy(update={"options": (*identity.options, *FLOAT32)})
    in_float32 = " in float32" if identity and FLOAT32[-1] in identity.options else ""
    engine = f"vllm {version}{in_float32}" if version else identity.engine if identity else server.engine
    return server.model_copy(update={"engine": engine, "identity": identity})


def reported(server: Server, path: str, key: str) -> str:
    """What the server reports about itself under that path; "" when it does not have it."""
    try:
        url = f"{server.url.removesuffix('/v1')}{path}"
        answer = httpx.get(url, headers=headers(key_of(server)), timeout=5.0, trust_env=False)
        return str(answer.raise_for_status().json()[key])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""
