"""Serve a GGUF file with llama.cpp: the program of `local_llama` and of the pod of `llama_pod`.

It imports nothing else of quantgate.

    python llama_server.py --folder FOLDER --alias NAME --port PORT --window TOKENS --slots N

FOLDER holds the file and the model's tokenizer, as a run stores them. The API key comes from $LLAMA_API_KEY.
"""

import argparse
import json
import os
import signal
import threading
from pathlib import Path

import xllamacpp

FILE = "model.gguf"
TEMPLATE = "chat_template.jinja"


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    """The server's settings; the window is that of one slot."""
    params = xllamacpp.CommonParams()
    params.model.path = str(options.folder / FILE)
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.window * options.slots
    params.ctx_shift = False
    params.cache_ram_mib = 0  # llama.cpp would keep earlier prompts in up to 8 GiB
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE  # as vLLM without a parser
    params.ui = False
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if template := chat_template(options.folder):
        params.chat_template = template
    return params


def chat_template(folder: Path) -> str:
    """The model's own chat template, which the file's may differ from; "" without one."""
    if (folder / TEMPLATE).exists():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.exists() else None
    if isinstance(template, list):  # several by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else ""


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: llama.cpp's own choice")
    # the first process of a container gets no signal that it does not handle, and would be waited for
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = xllamacpp.Server(parameters(parser.parse_args()))
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
