"""lm-eval against an endpoint: scores, records and failures; the endpoint is a fake, everything else is real."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest

from quantgate.components.benchmarks import harness, selection, suites
from quantgate.components.benchmarks.embedded import Embedded
from quantgate.components.benchmarks.encoder import puts_bos
from quantgate.components.benchmarks.selection import Questions
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import Suite, SuiteTask, suite_named
from quantgate.components.benchmarks.task_score import NoScoreError, score_of
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate import item_record, stages
from quantgate.components.evaluate.evaluation import Earlier, Evaluation
from quantgate.components.evaluate.ledger import shared
from quantgate.components.processes import lease
from quantgate.components.run import progress, records
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.results import RunResults
from quantgate.components.servers import local_server, local_vllm
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import open_store
from tests.support.fake_vllm import serving_python
from tests.support.prompted import questions_on

pytestmark = pytest.mark.slow  # imports lm-eval and PyTorch

SUITE = Suite("small", "For tests.", (SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=4, full=10),))


class Few:
    """A source of a few rows in PIQA's form."""

    description = "a few rows of the tests"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def split(self, wanted: Split) -> Rows | None:
        items = [
            {"goal": f"Goal {n}", "sol1": f"do {n}", "sol2": f"don't {n}", "label": n % 2} for n in range(self.rows)
        ]
        return Rows(datasets.Dataset.from_list(items), "0" * 64, "tests") if wanted.path == "baber/piqa" else None


def questions(model: Path, folder: Path, suite: Suite = SUITE, rows: int = 12) -> Questions:
    """The suite's questions on so many rows, prepared with the model's tokenizer."""
    return questions_on(suite, Few(rows), model, folder / f"prompts-{rows}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run's folder whose lease this process holds."""
    with lease.hold(tmp_path / "run" / "lease"):
        yield tmp_path / "run"


def serve(tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> Server:
    python = serving_python(folder / "serving-python")
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(python))
    monkeypatch.setenv("VLLM_FAKE", mode)
    monkeypatch.setenv("VLLM_FAKE_PROBES", "20" if mode != "ok" else "0")
    monkeypatch.setattr("quantgate.components.servers.client.LONGEST_WAIT_S", 0.05)
    server = local_vllm.deploy("int8", tiny_model, folder)
    assert server.failure == ""
    return server


def prompts_scored(server: Server) -> int:
    with urllib.request.urlopen(server.url.removesuffix("/v1") + "/asked") as answer:
        return int(json.loads(answer.read()))


@pytest.mark.parametrize(("mode", "slow"), [("ok", False), ("unmarked", True)])
def test_a_stage_says_why_a_server_without_our_plugin_scores_more_slowly(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, slow: bool
) -> None:
    server, results = serve(tiny_model, folder, monkeypatch, mode), RunResults(str(folder / "results"))
    asked_here = questions(tiny_model, folder)
    with progress.step(str(folder / "results"), "tiny", "int8") as step:
        scores = Evaluation(server, asked_here, "tiny", step).run(folder / "records.parquet")
        stages.save_scores(scores, step, str(folder / "results"), str(folder / "scores.json"))
    said = "scored more slowly, with read and echo and not batch: HTTP 404"
    assert scores.why_slow.startswith(said) is slow
    assert ("manifests/images/vllm.Containerfile" in scores.why_slow) is slow
    assert (said in results.progress.read_text()) is slow


def test_the_full_stage_evaluates_the_items_after_tiny_and_scores_all(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tiny_model, folder, monkeypatch, "ok")
    step = Step(folder / "progress.jsonl", "tiny", "int8")
    store = open_store(str(folder / "store"))

    asked_here = questions(tiny_model, folder)

    def prompts(stage: str, machine: str, probes: int = 2 * (1 + 6 + 1 + 2) + 1 + 1) -> tuple[Scores, int]:
        before = prompts_scored(server)
        book = server.identity.describe() if server.identity else ""
        known = shared(folder / f"{machine}.sqlite", book, store) if machine else nullcontext()
        with known as ledger:
            scores = Evaluation(server, asked_here, stage, step).run(folder / f"{stage}.parquet", Earlier(ledger))
        return scores, prompts_scored(server) - before - probes

    (tiny, of_tiny), (full, of_rest) = prompts("tiny", "mine"), prompts("full", "mine")
    kept, full_records = records.read(folder / "tiny.parquet"), records.read(folder / "full.parquet")
    again, of_again = prompts("full", "mine")
    elsewhere, of_elsewhere = prompts("full", "yours")
    at_once, of_all = prompts("full", "")
    local_server.undeploy(server)

    assert (of_tiny, of_rest, of_again, of_elsewhere, of_all) == (2 * 4, 2 * 6, 0, 0, 2 * 10)
    assert full.tasks == again.tasks == elsewhere.tasks
    assert (again.reused, elsewhere.reused, at_once.reused) == (2 * 10, 2 * 10, 0)

    assert [tiny.failure, full.failure] == ["", ""]
    assert full.identity == server.identity
    assert [origin.task for origin in full.row_origins] == [task.task for task in SUITE.tasks]
    assert (tiny.tasks[0].items, full.tasks[0].items) == (4, 10)
    assert full.tasks == at_once.tasks
    assert [record for record in full_records if record.item_id in {kept.item_id for kept in kept}] == kept
    order = harness.item_order(12)
    assert sorted(record.item_id for record in kept) == sorted(order[:4])
    assert sorted(record.item_id for record in full_records) == sorted(order[:10])
    assert full.tasks[0].score == sum(record.score or 0.0 for record in full_records) / 10


def test_a_record_contains_what_the_gate_needs(tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    from tests.support.fake_vllm import loglik

    server = serve(tiny_model, folder, monkeypatch, "ok")
    Evaluation(server, questions(tiny_model, folder), "tiny", Step(None, "tiny", "int8")).run(folder / "tiny.parquet")
    local_server.undeploy(server)
    first = records.read(folder / "tiny.parquet")[0]

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    n = first.item_id
    context = tokenizer(f"Question: Goal {n}\nAnswer:").input_ids
    expected = []
    for choice in (f" do {n}", f" don't {n}"):
        ids = tokenizer(choice).input_ids
        expected.append(sum(loglik(token, len(context) + at) for at, token in enumerate(ids)))
    assert first.logliks == pytest.approx(expected)
    assert first.target == n % 2
    assert first.score == float(expected.index(max(expected)) == first.target)
    assert (first.variant, first.task, first.metric, first.truncated) == ("int8", "piqa", "acc", False)
    assert first.tokens == 2 * len(context) + len(f" do {n}") + len(f" don't {n}")


def test_the_full_stage_runs_in_blocks_until_the_verdict_is_clear(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = Suite("small", "For tests.", (SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=3, full=24),))
    assert suite.looks == (0.125, 0.25, 0.5, 1.0)
    server = serve(tiny_model, folder, monkeypatch, "ok")
    step = Step(None, "full", "int8")
    seen: list[tuple[int, int, int]] = []

    def run(stop_at: int) -> Scores:
        def enough(scores: Scores, rows: list[records.Record]) -> bool:
            seen.append((scores.look, scores.tasks[0].items, len({row.item_id for row in rows})))
            return scores.look == stop_at

        return Evaluation(server, asked_here, "full", step).run(folder / f"{stop_at}.parquet", may_stop=enough)

    asked_here = questions(tiny_model, folder, suite, rows=24)
    stopped, all_of_it = run(3), run(9)
    at_once = Evaluation(server, asked_here, "full", step).run(folder / "once.parquet")
    local_server.undeploy(server)
    assert seen == [(2, 6, 6), (3, 12, 12), (2, 6, 6), (3, 12, 12)], (
        "the first look is the tiny stage's, the last the end"
    )
    assert (stopped.look, stopped.looks, stopped.planned_items, stopped.tasks[0].items) == (3, 4, 24, 12)
    assert (all_of_it.look, all_of_it.looks, all_of_it.tasks) == (4, 4, at_once.tasks)
    assert (at_once.look, at_once.looks) == (1, 1)
    assert records.read(folder / "9.parquet") == records.read(folder / "once.parquet"), "whatever order they were asked"


def test_chosen_items_are_asked_first_and_never_mixed_into_the_samples_of_the_looks(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = harness.item_order(24)
    anchors = (order[20], order[2], order[20], order[9])
    row = SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=3, full=24, anchors=anchors)
    asked_here = questions(tiny_model, folder, Suite("small", "For tests.", (row,)), rows=24)
    server = serve(tiny_model, folder, monkeypatch, "ok")
    step = Step(None, "full", "int8")
    seen: list[set[int]] = []

    def never(_scores: Scores, rows: list[records.Record]) -> bool:
        seen.append({row.item_id for row in rows})
        return False

    tiny = Evaluation(server, asked_here, "tiny", step).run(folder / "tiny.parquet")
    answered = records.read(folder / "tiny.parquet")
    full = Evaluation(server, asked_here, "full", step).run(folder / "full.parquet", Earlier(tiny=answered), never)
    local_server.undeploy(server)
    assert [record.item_id for record in records.read(folder / "tiny.parquet")] == sorted(set(anchors))
    assert seen == [set(order[:6]), set(order[:12])]
    assert (tiny.tasks[0].items, full.tasks[0].items) == (3, 24)
    assert full.requests == 2 * 24 - 2 * 3, "no chosen item is asked again, without a ledger too"


def test_the_records_of_a_stopped_evaluation_are_those_of_its_score(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = harness.item_order(24)
    row = SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=3, full=24, anchors=(order[20], order[2], order[9]))
    asked_here = questions(tiny_model, folder, Suite("small", "For tests.", (row,)), rows=24)
    server = serve(tiny_model, folder, monkeypatch, "ok")
    step = Step(None, "full", "int8")
    Evaluation(server, asked_here, "tiny", step).run(folder / "tiny.parquet")
    answered = Earlier(tiny=records.read(folder / "tiny.parquet"))
    stopped = Evaluation(server, asked_here, "full", step).run(folder / "full.parquet", answered, lambda *_: True)
    local_server.undeploy(server)
    recorded = records.read(folder / "full.parquet")
    assert {record.item_id for record in recorded} == set(order[:6]), "no chosen item outside the random sample"
    assert stopped.tasks[0].score == sum(record.score or 0.0 for record in recorded) / 6


def test_a_task_has_no_score_in_a_stage_in_which_none_of_its_items_fits(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = questions(tiny_model, folder)
    tiny_items = {(0, position) for position in harness.item_order(12)[:4]}
    needed = {item: 5000 if item in tiny_items else tokens for item, tokens in prepared.prompts.needed["piqa"].items()}
    vars(prepared.prompts)["needed"] = {"piqa": needed}
    server = serve(tiny_model, folder, monkeypatch, "ok")
    tiny, full = (
        Evaluation(server, prepared, stage, Step(None, stage, "int8")).run(folder / f"{stage}.parquet")
        for stage in ("tiny", "full")
    )
    local_server.undeploy(server)
    assert (tiny.failure, tiny.tasks, tiny.planned_items) == ("", (), 0)
    assert (full.failure, full.tasks[0].items, full.planned_items) == ("", 6, 6)


@pytest.mark.parametrize(
    ("mode", "what"),
    [("mortal", "stopped answering"), ("500", "500"), ("garbage", "cannot be read"), ("short", "where")],
)
def test_a_failing_server_gives_a_reason_and_never_a_score(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, what: str
) -> None:
    server = serve(tiny_model, folder, monkeypatch, mode)
    stage = Evaluation(server, questions(tiny_model, folder), "tiny", Step(None, "tiny", "int8"))
    scores = stage.run(folder / "tiny.parquet")
    local_server.undeploy(server)
    assert what in scores.failure
    assert server.log in scores.failure
    assert (scores.tasks, scores.records) == ((), "")
    assert not (folder / "tiny.parquet").exists()


@pytest.mark.parametrize(
    ("score", "kept"), [(1.0000000000000002, 1.0), (-1e-12, 0.0), (0.5, 0.5), (1.001, 1.001), (1.0, 1.0)]
)
def test_a_share_that_rounding_pushed_out_of_range_is_clipped(score: float, kept: float) -> None:
    assert item_record.as_share(score) == kept


def test_an_answer_without_a_score_fails_the_variant() -> None:
    row = SUITE.tasks[0]
    record = records.Record("int8", "piqa", 0, "", "acc", float("nan"), 0, [], [], "", 1, False)
    with pytest.raises(NoScoreError, match="acc cannot be computed"):
        score_of(row, [record], "1", PromptSettings())


def test_a_server_that_never_started_gets_no_request(tiny_model: Path, tmp_path: Path) -> None:
    server = Server(variant="int8", failure="vLLM ended")
    stage = Evaluation(server, questions(tiny_model, tmp_path), "tiny", Step(None, "tiny", "int8"))
    scores = stage.run(tmp_path / "tiny.parquet")
    assert (scores.failure, scores.tasks) == ("vLLM ended", ())


@pytest.mark.slow
def test_without_a_server_the_ledger_gives_the_scores_only_if_it_has_every_answer(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tiny_model, folder, monkeypatch, "ok")
    local_server.undeploy(server)
    running, gone = serve(tiny_model, folder, monkeypatch, "ok"), server.model_copy(update={"failure": "vLLM ended"})

    def scored(by: Server, stage: str) -> Scores:
        with shared(folder / "ledger.sqlite", "book", open_store(str(folder / "store"))) as ledger:
            evaluation = Evaluation(by, questions(tiny_model, folder), stage, Step(None, stage, "bf16"))
            return evaluation.run(folder / f"{stage}.parquet", Earlier(ledger))

    measured = scored(running, "tiny")
    local_server.undeploy(running)
    known, unknown = scored(gone, "tiny"), scored(gone, "full")
    assert (known.failure, known.tasks, known.identity) == ("", measured.tasks, server.identity)
    assert known.reused == known.requests == measured.requests
    assert unknown.tasks == ()
    assert "the ledger does not have all of the model's answers" in unknown.failure


@pytest.mark.parametrize("has_answers", [True, False])
def test_a_baseline_that_could_not_be_served_is_scored_from_the_ledger(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, has_answers: bool
) -> None:
    file, results = folder / "prompts.parquet", str(folder / "results")
    asked = EvaluationPlan(
        variants=("bf16",), suite="demo", limit=2, data="embedded", store=str(folder / "store"), results=results
    )
    questions_on(selection.suite_of(asked), Embedded(), tiny_model, file)
    prompts = {"prompts": str(file), "prompts_sha256": sha256_of(file), "window": 2048}
    plan = asked.model_copy(update=prompts)
    server = serve(tiny_model, folder, monkeypatch, "ok")
    served = server.model_copy(update={"variant": "bf16"})

    def scored(by: Server) -> Scores:
        with progress.step(results, "full", "bf16") as step:
            return stages.score_stage(by, plan, "full", step, folder / "full.parquet")

    measured = scored(served) if has_answers else None
    local_server.undeploy(server)
    scores = scored(served.model_copy(update={"failure": "vLLM ended"}))
    if measured:
        assert (measured.failure, scores.failure, scores.tasks) == ("", "", measured.tasks)
        assert scores.reused == scores.requests > 0
    else:
        assert (scores.failure, scores.tasks) == ("vLLM ended", ())


def test_the_order_of_items_is_fixed() -> None:
    assert harness.item_order(10) == harness.item_order(10)
    assert sorted(harness.item_order(10)) == list(range(10))
    assert harness.item_order(10) != list(range(10))


def test_the_demo_evaluates_a_hundred_items_first_and_several_hundred_in_total() -> None:
    demo = suite_named("demo")
    assert sum(task.tiny for task in demo.tasks) == 100
    assert sum(task.full for task in demo.tasks) >= 500
    assert all(task.tiny < task.full for task in demo.tasks)


def test_an_unknown_suite_is_refused_with_the_valid_names() -> None:
    with pytest.raises(PrerequisiteError, match="Unknown suite 'mmmlu'. Choose from: demo"):
        suite_named("mmmlu")


def test_no_suite_contains_the_calibration_data() -> None:
    from quantgate.components.run.calibration import PASSAGES

    scored = {task.task for suite in suites.SUITES.values() for task in suite.tasks}
    assert PASSAGES not in scored


def test_bos_is_added_only_when_the_tokenizer_adds_it(tiny_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    assert not puts_bos(tokenizer)
    tokenizer.bos_token = "<eos>"
    assert not puts_bos(tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert puts_bos(tokenizer)


@pytest.mark.parametrize(
    ("metric", "answer"), [("acc", "a long choice"), ("acc_norm", "a long choice"), ("exact_match", "")]
)
def test_the_answer_is_the_choice_that_the_metric_selects(metric: str, answer: str) -> None:
    assert item_record.chosen_answer([-3.0, -2.9], ("short", "a long choice"), metric) == answer


def test_length_matters_only_for_a_normalized_metric() -> None:
    assert item_record.chosen_answer([-2.0, -2.5], ("short", "a long choice"), "acc") == "short"
    assert item_record.chosen_answer([-2.0, -2.5], ("short", "a long choice"), "acc_norm") == "a long choice"
