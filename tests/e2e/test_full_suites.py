"""The suites openllm and tiny through a whole run, killed once: their longest prompts, the window, the verdict.

The model is a toy with the demo model's tokenizer and a window of 8,192 tokens. Of MMLU's subjects the rows are the
longest questions, so the longest of all is among them. `QUANTGATE_FULL_SUITE_ITEMS` is the number of items of a task,
`QUANTGATE_FULL_SUITE_MODEL` another model with that tokenizer, such as the demo's; benchmarks/full_size.py runs the
suite on all items.
"""

import json
import math
import os
import signal
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.full_size import make_model
from quantgate.components.benchmarks import harness, mirror
from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.run import progress, records
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, TINY, RunResults
from quantgate.components.servers.local_vllm import serving_python
from tests.e2e.started import processes_of, start
from tests.support.benchmark_data import lay_out, lines_of, shared_data

SUBJECTS = 57
ITEMS = int(os.environ.get("QUANTGATE_FULL_SUITE_ITEMS", SUBJECTS))
MODEL = os.environ.get("QUANTGATE_FULL_SUITE_MODEL", "")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(4 * 3600 if MODEL else 3600),
    pytest.mark.skipif(not serving_python().exists(), reason="vLLM's environment is missing: `make environments`"),
]


def text_length(line: str) -> int:
    """The characters of an MMLU question with its choices."""
    row = json.loads(line)
    return len(row["question"]) + sum(map(len, row["choices"]))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of both suites' rows, with the longest questions of each of MMLU's subjects."""
    data, folder = shared_data(), tmp_path_factory.mktemp("rows")
    splits = [
        split for name in ("openllm", "tiny") for row in SUITES[name].tasks for split in harness.splits_wanted(row)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(Path(scratch), data)
        for file in Path(scratch).glob("cais/mmlu/*/test.jsonl"):
            longest = sorted(lines_of(file), key=text_length, reverse=True)[: math.ceil(ITEMS / SUBJECTS)]
            file.write_text("".join(f"{line}\n" for line in longest), encoding="utf-8", newline="\n")
        mirror.make(splits, Folder(Path(scratch)), str(folder), lambda *_progress: None)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> tuple[Path, int]:
    """A finished run that was killed once, and the number of the baseline's answers by then."""
    folder = tmp_path_factory.mktemp("full")
    if not MODEL:
        make_model(folder / "model")
    out = folder / "runs" / "run"
    out.parent.mkdir()
    options = ["--model", MODEL or f"file:{folder / 'model'}", "--suite", "openllm,tiny", "--limit", str(ITEMS)]
    options += ["--variants", "int8", "--data", str(rows), "--no-stop-early", "--max-answer-tokens", "16"]
    process = start(out, *options)
    wait_for_answers(process, out, FULL)
    assert any("vllm.entrypoints" in line for line in processes_of(out))
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    process.wait(30)
    while left := processes_of(out):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert json.loads((out / "run.json").read_text())["state"] == "running"
    assert not (out / "verdicts.json").exists()
    answered = baseline_answers(folder)
    assert start(out, *options).wait() == 0, out.with_suffix(".txt").read_text()[-3000:]
    return out, answered


def wait_for_answers(process: "subprocess.Popen[bytes]", out: Path, stage: str) -> None:
    """Wait until some items of the baseline's stage are answered."""
    results, offset, answered = RunResults(str(out)), 0, 0
    while answered < ITEMS:
        assert process.poll() is None, out.with_suffix(".txt").read_text()[-3000:]
        events, offset = progress.read(results.progress, offset)
        answered = max([answered, *(event.done for event in events if event.step == stage)])
        time.sleep(0.2)


def baseline_answers(folder: Path) -> int:
    """The number of answers in the ledger, which has those of the baseline only."""
    database = folder / "ledger.sqlite"
    with closing(Ledger(database, "")) as ledger:
        (count,) = ledger.database.execute("SELECT count(*) FROM answers").fetchone()
    return int(count)


def test_both_suites_reach_a_verdict(run: tuple[Path, int]) -> None:
    out, _ = run
    baseline, variant = json.loads((out / "verdicts.json").read_text())
    assert baseline["verdict"] == "reference"
    assert variant["verdict"] not in ("not_comparable", "failed")
    tasks = [row.task for name in ("openllm", "tiny") for row in SUITES[name].tasks]
    assert list(variant["scores"]) == tasks


def test_mmlus_longest_question_is_answered_in_the_window_that_it_needs(run: tuple[Path, int]) -> None:
    out, _ = run
    plan = EvaluationPlan.read(out / "plan.json")
    assert (plan.window, plan.too_long) == (4096, {})
    for variant in ("bf16", "int8"):
        answers = [
            record for record in records.read(out / "variants" / variant / "full.parquet") if record.task == "mmlu"
        ]
        assert len(answers) == ITEMS
        longest = max(answers, key=lambda record: record.tokens)
        assert longest.tokens / 4 > 3000, "each of its four choices is scored after the whole prompt"
        assert not longest.truncated
        assert len(longest.logliks) == 4


def test_the_killed_run_asks_nothing_twice(run: tuple[Path, int]) -> None:
    out, answered = run
    scores = {stage: Scores.read(out / "variants" / "bf16" / f"{stage}.json") for stage in (TINY, FULL)}
    assert answered > 0
    assert scores[TINY].reused == scores[TINY].requests
    identity = scores[FULL].identity
    assert identity is not None
    with closing(Ledger(out.parents[1] / "ledger.sqlite", identity.describe())) as ledger:
        distinct = ledger.count()
    assert sum(stage.requests - stage.reused for stage in scores.values()) == distinct - answered


def test_both_variants_answer_the_same_prompts(run: tuple[Path, int]) -> None:
    out, _ = run
    prompts = [
        {
            (record.task, record.cluster, record.item_id): record.prompt_hash
            for record in records.read(out / "variants" / variant / "full.parquet")
        }
        for variant in ("bf16", "int8")
    ]
    assert prompts[0] == prompts[1]
