"""Serve a GGUF file with llama.cpp: the program that `local_llama` starts. It imports nothing else of quantgate.

    python llama_server.py --model FILE.gguf --alias NAME --port PORT --window TOKENS --slots N [--chat-template FILE]

The API key comes from $LLAMA_API_KEY.
"""

import argparse
import os
import threading
from pathlib import Path

import xllamacpp


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    """The server's settings; the window is that of one slot."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.window * options.slots
    params.ctx_shift = False
    params.cache_ram_mib = 0  # llama.cpp would keep earlier prompts in up to 8 GiB
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE  # as vLLM without a parser
    params.ui = False
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    if options.chat_template:
        params.chat_template = Path(options.chat_template).read_text(encoding="utf-8")
    return params


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--chat-template", default="")
    server = xllamacpp.Server(parameters(parser.parse_args()))
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
