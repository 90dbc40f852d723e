"""The file of prepared prompts, the window that a suite needs, and the items that do not fit it."""

import json
from pathlib import Path

import datasets
import pytest

from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import Prepared, prepare
from quantgate.components.benchmarks.prompts import (
    ITEMS_PER_GROUP,
    TOKENS_PER_GROUP,
    ItemPrompts,
    Preparation,
    PromptFile,
    group_sizes,
    lm_eval_requests,
    row_of,
    write,
)
from quantgate.components.benchmarks.selection import questions_of
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.window import model_window, own_window, served_window
from quantgate.components.policies.policy import UseCase
from quantgate.components.resolve.prepared_prompts import check_window, with_prompts
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step

pytestmark = pytest.mark.slow  # imports lm-eval and PyTorch

PIQA = SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=4, full=40)


class Goals:
    """Rows in PIQA's form; goal N has N times ten characters, so that each prompt has a length of its own."""

    description = "rows of the tests"

    def split(self, wanted: Split) -> Rows | None:
        rows = [{"goal": "x" * 10 * n, "sol1": "do it", "sol2": "don't", "label": n % 2} for n in range(40)]
        return Rows(datasets.Dataset.from_list(rows), "0" * 64, "tests") if wanted.path == "baber/piqa" else None


@pytest.fixture(scope="module")
def task() -> Prepared:
    return prepare(PIQA, Goals())


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model)


@pytest.fixture
def prompts(task: Prepared, encoder: Encoder, tmp_path: Path) -> PromptFile:
    file = tmp_path / "prompts.parquet"
    items = {(0, position) for position in range(40)}
    write({"piqa": (task, items)}, Preparation(encoder, 2048), file, lambda _done, _task: None)
    return PromptFile(file)


def plan_in(folder: Path, **settings: object) -> EvaluationPlan:
    limits = UseCase(name="test", max_average_drop=0.05, too_long=settings.pop("too_long", "exclude"))  # type: ignore[arg-type]
    return EvaluationPlan(
        variants=("bf16",),
        store=str(folder / "store"),
        results=str(folder),
        asked="a digest",
        limits=limits,
        **settings,
    )


def length(position: int) -> int:
    """The tokens of a goal's longer prompt, one a byte, and room for one generated token."""
    return len(f"Question: {'x' * 10 * position}\nAnswer: don't") + 1


def test_each_item_is_read_back_with_its_token_ids(prompts: PromptFile, encoder: Encoder) -> None:
    (block,) = prompts.blocks("piqa", {(0, 3), (0, 17)})
    assert {item.item for item in block} == {(0, 3), (0, 17)}
    first: ItemPrompts = next(item for item in block if item.position == 3)
    assert first.question == f"Question: {'x' * 30}\nAnswer:"
    assert first.choices == ("do it", "don't")
    (context,) = first.contexts
    assert context == encoder.encode([first.question])[0]
    assert [continuation for _, continuation in first.requests] == encoder.encode([" do it", " don't"])
    assert (first.generation, first.tokens) == ("", length(3))


def test_items_are_sorted_by_their_context_so_that_neighbours_share_a_prefix(prompts: PromptFile) -> None:
    contexts = [item.contexts[0] for block in prompts.blocks("piqa", {(0, n) for n in range(40)}) for item in block]
    assert contexts == sorted(contexts)


def test_only_the_items_that_are_wanted_are_read(prompts: PromptFile) -> None:
    assert list(prompts.blocks("piqa", set())) == []
    assert [item.position for block in prompts.blocks("piqa", {(0, 8), (1, 8)}) for item in block] == [8]


def test_the_file_names_the_tokenizer_and_what_each_item_needs(prompts: PromptFile, encoder: Encoder) -> None:
    assert prompts.tokenizer == encoder.digest
    assert prompts.needed["piqa"] == {(0, position): length(position) for position in range(40)}


def test_progress_is_reported_while_prompts_are_prepared(task: Prepared, encoder: Encoder, tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    items = {(0, position) for position in range(40)}
    write({"piqa": (task, items)}, Preparation(encoder, 2048), tmp_path / "p", lambda *progress: seen.append(progress))
    assert seen == [(40, "piqa")]


@pytest.mark.parametrize(
    ("needed", "largest", "window"),
    [(100, 8192, 2048), (2048, 8192, 2048), (2049, 8192, 4096), (3149, 8192, 4096), (5000, 6000, 6000), (80, 512, 512)],
)
def test_a_server_gets_the_next_power_of_two_at_most_the_models_window(needed: int, largest: int, window: int) -> None:
    assert served_window(needed, largest) == window


def test_items_that_do_not_fit_the_models_window_are_counted(task: Prepared, encoder: Encoder, tmp_path: Path) -> None:
    model_window = length(30)
    plan = with_prompts(plan_in(tmp_path), [task], Preparation(encoder, model_window), Step(None, "resolve", ""))
    assert (plan.window, plan.too_long) == (model_window, {"piqa": 9})
    assert PromptFile(Path(plan.prompts)).needed["piqa"].keys() == {(0, position) for position in range(40)}


@pytest.mark.fault(
    "numbers",
    "the prompts in the store are replaced between the baseline and a variant",
    "no variant is asked other questions: the file's sha256 is in the run's plan",
)
def test_prompts_that_changed_since_the_run_began_are_not_sent(
    task: Prepared, encoder: Encoder, tmp_path: Path
) -> None:
    plan = with_prompts(plan_in(tmp_path), [task], Preparation(encoder, 8192), Step(None, "resolve", ""))
    assert questions_of(plan).prompts.tokenizer == encoder.digest
    write({"piqa": (task, {(0, 1)})}, Preparation(encoder, 8192), Path(plan.prompts), lambda _done, _task: None)
    with pytest.raises(PrerequisiteError, match=r"\.parquet has other bytes than when the run began"):
        questions_of(plan)


def test_a_window_that_fits_all_leaves_nothing_out(task: Prepared, encoder: Encoder, tmp_path: Path) -> None:
    plan = with_prompts(plan_in(tmp_path), [task], Preparation(encoder, 8192), Step(None, "resolve", ""))
    assert (plan.window, plan.too_long) == (2048, {})


def test_the_window_that_the_user_gives_is_served(task: Prepared, encoder: Encoder, tmp_path: Path) -> None:
    chosen = plan_in(tmp_path, max_model_len=length(30))
    plan = with_prompts(chosen, [task], Preparation(encoder, 8192), Step(None, "resolve", ""))
    assert (plan.window, plan.too_long) == (length(30), {"piqa": 9})


def test_a_policy_can_refuse_a_run_with_items_that_are_too_long(
    task: Prepared, encoder: Encoder, tmp_path: Path
) -> None:
    refusing, preparation = plan_in(tmp_path, too_long="refuse"), Preparation(encoder, length(38))
    message = rf"The window is {length(38)} tokens, and 1 of 40 items of piqa need more, up to {length(39)}"
    with pytest.raises(PrerequisiteError, match=message):
        with_prompts(refusing, [task], preparation, Step(None, "resolve", ""))
    fits = with_prompts(refusing, [task], Preparation(encoder, length(39)), Step(None, "resolve", ""))
    assert fits.too_long == {}


@pytest.mark.fault(
    "numbers", "the window is smaller than the shortest prompt", "refused before the weights are quantized"
)
def test_a_window_smaller_than_the_shortest_prompt_ends_the_run(
    task: Prepared, encoder: Encoder, tmp_path: Path
) -> None:
    message = rf"The window is 20 tokens, and the shortest item of piqa needs {length(0)} with its answer"
    with pytest.raises(PrerequisiteError, match=message):
        with_prompts(plan_in(tmp_path), [task], Preparation(encoder, 20), Step(None, "resolve", ""))


def test_a_window_beyond_the_models_own_is_refused(tmp_path: Path) -> None:
    check_window(plan_in(tmp_path, max_model_len=8192), 8192)
    with pytest.raises(PrerequisiteError, match="--max-model-len is 8,193, and the model's own window is 8,192"):
        check_window(plan_in(tmp_path, max_model_len=8193), 8192)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"max_seq_len": 4096, "seq_length": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 512}, "max_position_embeddings": 64}, 512),
        ({"text_config": None, "max_position_embeddings": 64}, 64),
    ],
)
def test_a_models_window_is_read_under_each_name_that_vllm_knows(
    config: dict[str, object], window: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (own_window(tmp_path), model_window(tmp_path)) == (window, window)


def test_a_model_without_a_window_may_be_served_with_any(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert (own_window(tmp_path), model_window(tmp_path)) == (None, 2048)
    check_window(plan_in(tmp_path, max_model_len=65_536), own_window(tmp_path))


class Pages:
    """Two documents of WikiText."""

    description = "pages of the tests"

    def split(self, wanted: Split) -> Rows:
        return Rows(datasets.Dataset.from_list([{"page": "word " * 200}, {"page": "short"}]), "1" * 64, wanted.file)


def test_a_document_is_cut_into_windows_that_fit_the_window_of_the_user(encoder: Encoder, tmp_path: Path) -> None:
    pages = prepare(SuiteTask("wikitext", "word_perplexity", shots=0, chance=0.0, tiny=1, full=2), Pages())
    chosen = plan_in(tmp_path, max_model_len=100)
    plan = with_prompts(chosen, [pages], Preparation(encoder, 8192), Step(None, "resolve", ""))
    file = PromptFile(Path(plan.prompts))
    assert (plan.window, plan.too_long) == (100, {})
    assert max(file.needed["wikitext"].values()) == 100
    (block,) = file.blocks("wikitext", {(0, 0)})
    assert [token for _, part in block[0].requests for token in part] == encoder.encode(["word " * 200])[0]


@pytest.mark.parametrize(
    ("tokens", "sizes"),
    [
        ([], []),
        ([1] * (2 * ITEMS_PER_GROUP + 1), [ITEMS_PER_GROUP, ITEMS_PER_GROUP, 1]),
        ([TOKENS_PER_GROUP // 2] * 5, [2, 2, 1]),
        ([TOKENS_PER_GROUP + 1] * 2, [1, 1]),
    ],
)
def test_a_group_of_rows_has_few_items_and_few_tokens(tokens: list[int], sizes: list[int]) -> None:
    assert group_sizes(tokens) == sizes


def test_items_of_several_groups_are_read_back(
    task: Prepared, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantgate.components.benchmarks.prompts.TOKENS_PER_GROUP", 2000)
    items = {(0, position) for position in range(40)}
    write({"piqa": (task, items)}, Preparation(encoder, 2048), tmp_path / "p", lambda _done, _task: None)
    blocks = list(PromptFile(tmp_path / "p").blocks("piqa", items))
    assert len(blocks) > 4
    assert sorted(item.item for block in blocks for item in block) == sorted(items)


def test_an_item_without_a_prompt_is_refused_before_anything_is_asked(task: Prepared, encoder: Encoder) -> None:
    task.leaves[0].task.pick([3])
    ((request, _),) = lm_eval_requests(task.leaves[0], Preparation(encoder, 2048))
    with pytest.raises(PrerequisiteError, match="Item 3 of piqa has only white space before its answer"):
        row_of(task.leaves[0], request, encoder.encode_pairs([(" ", "do it"), (" ", "don't")]))


def test_a_template_that_does_not_fit_a_row_is_refused_with_the_tasks_name(encoder: Encoder) -> None:
    leaf = prepare(PIQA, Goals()).leaves[0]
    leaf.task.pick([3])
    leaf.task.config.doc_to_text = "{{goal.missing.name}}"
    with pytest.raises(PrerequisiteError, match="A template of piqa does not fit one of its rows: .*missing"):
        lm_eval_requests(leaf, Preparation(encoder, 2048))


class Counted:
    """An encoder that counts how often it encodes."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.calls = encoder, 0

    def __getattr__(self, name: str) -> object:
        self.calls += name == "encode_pairs"
        return getattr(self.encoder, name)


@pytest.fixture
def counted(encoder: Encoder) -> Counted:
    return Counted(encoder)


def test_a_second_run_of_the_same_questions_reads_the_prompts_of_the_first(
    task: Prepared, counted: Counted, tmp_path: Path
) -> None:
    step, preparation = Step(None, "resolve", ""), Preparation(counted, 8192)  # type: ignore[arg-type]
    first = with_prompts(plan_in(tmp_path), [task], preparation, step)
    calls = counted.calls
    assert calls > 0
    assert with_prompts(plan_in(tmp_path), [task], preparation, step) == first
    assert counted.calls == calls
    other = with_prompts(plan_in(tmp_path).model_copy(update={"asked": "another"}), [task], preparation, step)
    assert other.prompts != first.prompts
    assert counted.calls == 2 * calls
