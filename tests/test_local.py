"""The whole pipeline under kfp's local runner. Only vLLM is a fake, so that tests can make it fail."""

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.verdicts import Decision
from tests.e2e.started import processes_of
from tests.support.local_run import command, environment, quantgate, verdicts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """The folder for temporary files of the runs, with a short path for their sockets."""
    with tempfile.TemporaryDirectory(prefix="quantgate-test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> "tuple[Path, str]":
    """A run in which vLLM dies while it starts one variant, and another variant has no group size that fits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"VLLM_FAKE": "dies", "VLLM_FAKE_ONLY": "quantgate-int8", "TMPDIR": str(temporary)}
    answer = quantgate(out, tiny_model, "--variants", "int8,int4-g64", "--speed", "quick", **settings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return out, answer.stdout


@pytest.mark.fault("machine", "a run of many steps ends", "its folder for temporary files is as it was before")
def test_a_run_leaves_no_temporary_file(finished: "tuple[Path, str]", temporary: Path) -> None:
    assert list(temporary.iterdir()) == []


def test_a_variant_whose_server_dies_is_a_failed_row_with_the_reason(finished: "tuple[Path, str]") -> None:
    row = verdicts(finished[0])["int8"]
    assert row["verdict"] == "failed"
    assert "vLLM ended (exit status 1) before it was ready" in row["sentence"]
    assert row["scores"] == {}
    assert row["average_drop"] is None


def test_the_other_variants_are_still_judged(finished: "tuple[Path, str]") -> None:
    rows = verdicts(finished[0])
    assert rows["bf16"]["verdict"] == "reference"
    same = rows["int4-g64"]  # the fake thinks the same of every variant; so few questions show no more than this
    assert (same["verdict"], same["form"], same["average_drop"]) == ("monitor", "evidence", 0.0)
    assert "with 98.29 % confidence a drop of at most" in same["sentence"]  # the first attempt, at its last look
    assert [(task["lost"], task["gained"], task["kl"]) for task in same["tasks"]] == [(0, 0, 0.0)] * 2


def test_each_server_that_was_tested_on_all_items_is_load_tested(finished: "tuple[Path, str]") -> None:
    out, printed = finished
    decision = Decision.read(out / "decision.json")
    assert [test.variant for test in decision.load_tests] == ["bf16", "int4-g64"]
    assert decision.load_tests[1] == LoadTest.read(out / "variants" / "int4-g64" / "speed.json")
    assert [(level.concurrency, level.requests) for level in decision.load_tests[1].levels] == [(1, 8), (4, 8)]
    assert decision.load_tests[1].memory_bytes > 1_000_000
    assert "int4-g64 speed done: 53.2 output tokens/s with 1 at a time" in printed
    assert "int8 was not load-tested: it failed before." in (out / "report.md").read_text()
    assert (out / "plots" / "speed.svg").is_file()


def test_without_a_terminal_a_run_prints_its_steps_as_plain_lines(finished: "tuple[Path, str]") -> None:
    lines = [line.split(" ", 1)[-1] for line in finished[1].splitlines()]
    for line in ("bf16 quantize done", "bf16 tiny running", "int8 full skipped", "gate running"):
        assert any(printed.startswith(line) for printed in lines), line


def test_without_a_baseline_no_variant_is_quantized(tiny_model: Path, tmp_path: Path) -> None:
    out, options = (
        tmp_path / "run",
        ("--suite", "quick", "--limit", "4", "--variants", "int8", "--quiet", "--no-check-power"),
    )
    files = ("--exit-by-verdict", "--junit", str(tmp_path / "run.xml"), "--summary", str(tmp_path / "run.md"))
    answer = quantgate(out, tiny_model, *options, *files, VLLM_FAKE="dies", VLLM_FAKE_ONLY="quantgate-bf16")
    assert answer.returncode == 4, answer.stdout + answer.stderr
    suites = {suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "run.xml").getroot()}
    assert {name: suite.get("errors") for name, suite in suites.items()} == {"bf16": "1", "int8": "1"}
    assert (tmp_path / "run.md").read_text().startswith("### No answer: the baseline bf16 failed")
    rows = verdicts(out)
    assert [row["verdict"] for row in rows.values()] == ["failed", "failed"]
    assert rows["int8"]["sentence"].startswith("Not judged: the baseline has no scores. vLLM ended (exit status 1)")
    assert not (out / "logs" / "quantize-int8.log").exists()


@pytest.fixture(scope="module")
def repeated(finished: "tuple[Path, str]", tiny_model: Path) -> "tuple[Path, str]":
    """A second run in the same folder, by another policy, with a variant that answers differently."""
    out, _ = finished
    policy = out.with_suffix(".yaml")
    policy.write_text("name: close\nmax_divergence: {arc_easy: 0.001}\n", encoding="utf-8")
    options = ("--variants", "int8", "--policy", str(policy), "--noise-floor", "--no-check-power", "--quiet")
    answer = quantgate(out, tiny_model, *options, VLLM_FAKE="contrary", VLLM_FAKE_ONLY="quantgate-int8")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return out, answer.stdout


def test_a_second_run_in_the_same_folder_reuses_the_weights_and_replaces_the_outcome(
    repeated: "tuple[Path, str]",
) -> None:
    out, printed = repeated
    assert list(verdicts(out)) == ["bf16", "int8"]
    weights = json.loads((out / "variants" / "int8" / "weights.json").read_text())
    assert weights["reused"] is True
    assert not (out / "variants" / "int4-g64").exists()  # the first run's
    assert "running" not in printed


def test_a_variant_that_clearly_exceeds_a_limit_stops_after_the_tiny_stage(
    repeated: "tuple[Path, str]",
) -> None:
    out, _ = repeated
    row = verdicts(out)["int8"]
    assert (row["verdict"], row["items"], row["planned_items"]) == ("reject", 100, 600)
    assert row["sentence"].startswith("Rejected for close: the KL divergence on arc_easy is ")
    stopped = "; stopped early after 100 of 600 questions, because more answers could not change the verdict."
    assert stopped in row["sentence"]
    assert "int8 stopped early after 100 of 600 questions" in (out / "report.md").read_text()


def test_a_second_pass_of_the_baseline_measures_the_noise_floor(repeated: "tuple[Path, str]") -> None:
    out, _ = repeated
    assert {task["noise_floor"] for task in verdicts(out)["int8"]["tasks"]} == {0.0}  # the fake has no noise
    assert (out / "variants" / "bf16" / "again.parquet").exists()


def test_a_model_without_a_chat_template_is_refused_before_quantization(tmp_path: Path, tiny_model: Path) -> None:
    files = ("--junit", str(tmp_path / "ci" / "run.xml"), "--summary", str(tmp_path / "ci" / "run.md"))
    answer = quantgate(tmp_path / "run", tiny_model, "--chat-template", "--quiet", *files)
    assert answer.returncode == 1
    reason = "has no chat template. Run it with --no-chat-template."
    assert reason in answer.stderr
    (error,) = ElementTree.parse(tmp_path / "ci" / "run.xml").iter("error")
    assert reason in str(error.get("message"))
    assert reason in (tmp_path / "ci" / "run.md").read_text()
    assert not (tmp_path / "run" / "variants").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["a scheduler", "Ctrl-C"])
def test_a_terminated_run_stops_every_process(
    tmp_path: Path, tiny_model: Path, temporary: Path, number: signal.Signals
) -> None:
    """By SIGKILL, and with the real vLLM: tests/e2e/test_full_suites.py."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(out, tiny_model, "--suite", "quick", "--variants", "int8", "--no-check-power"),
        env=environment(out) | {"VLLM_FAKE_DELAY_S": "2", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while '"step": "tiny"' not in ((out / "progress.jsonl").read_text() if (out / "progress.jsonl").exists() else ""):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert any("vllm.entrypoints" in line for line in processes_of(out))
    assert len(list(temporary.iterdir())) == 3  # the program's, the pipeline's and the server's
    process.send_signal(number)
    deadline = time.monotonic() + 30
    _, output = process.communicate(timeout=30)
    while left := processes_of(out):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert (process.returncode, json.loads((out / "run.json").read_text())["state"]) == (130, "interrupted")
    assert "interrupted" in output
    assert not (out / "verdicts.json").exists()
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_no_file_that_looks_complete(tmp_path: Path, tiny_model: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        answer = quantgate(tmp_path / "run", tiny_model, "--store", str(small), "--variants", "int8")
        assert answer.returncode == 1
        assert "full" in answer.stderr
        assert "Traceback" not in answer.stderr
        assert list(small.rglob("COMPLETE.json")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert not (tmp_path / "run" / "verdicts.json").exists()
