"""RULER's rows, made by lm-eval's own generators with a model's tokenizer, once for each tokenizer."""

from pathlib import Path

import nltk
import pytest

from quantgate.components.benchmarks import ifeval, ruler, selection, tasks
from quantgate.components.benchmarks.harness import prepare
from quantgate.components.benchmarks.seeding import seeded
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.rows import prepared_tasks
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from tests.support.made_rows import MadeRows as Shapes

pytestmark = pytest.mark.slow  # lm-eval's generators load lists of words and count the tokens of long texts


@pytest.fixture(autouse=True)
def _no_model_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    ifeval.make_ready(Shapes())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tokenizer with a token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(vocab={"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["ruler_vt", "ruler_fwe"])
def test_the_rows_are_the_first_of_lm_eval_s_own_and_as_long_as_their_context(name: str, tokenizer: str) -> None:
    rows = ruler.MadeRows(tokenizer, tasks.generator).split(ruler.split_of(name, "ruler_4096")).dataset
    assert len(rows) == ruler.ROWS
    assert 3500 < max(rows["length"]) <= 4096 + 50
    with seeded():
        own = tasks.generator(name)(tokenizer=tokenizer, max_seq_lengths=[4096])["test"]
    assert len(own) == 500
    assert own.select(range(ruler.ROWS)).to_list() == rows.to_list()


def test_a_tokenizer_of_letters_is_refused_before_the_generators_try_forever(tiny_model: Path) -> None:
    with pytest.raises(PrerequisiteError, match="is about a letter"):
        ruler.MadeRows(str(tiny_model), tasks.generator).split(ruler.split_of("ruler_cwe", "ruler_4096"))


@pytest.mark.timeout(900)
def test_resolve_makes_the_rows_once_for_a_tokenizer_and_the_other_steps_read_them(
    tokenizer: str, tmp_path: Path
) -> None:
    from quantgate.components.benchmarks import mirror

    mirror.make([ifeval.PUNKT], Shapes(), str(tmp_path / "rows"), lambda *_: None)
    file = tmp_path / "long.yaml"
    file.write_text("name: long\ntasks: [{task: ruler_4096, items: 600}]\n")
    from quantgate.components.benchmarks.suite_check import completed
    from quantgate.components.benchmarks.suite_file import read_suite

    suite = read_suite(str(file))
    plan = EvaluationPlan(
        variants=("bf16",),
        suite=suite,
        suite_kept=completed(suite, trusted=False),
        data=str(tmp_path / "rows"),
        store=str(tmp_path / "store"),
        results=str(tmp_path / "run"),
    )
    step = Step(None, "resolve", "")
    resolved, _ = prepared_tasks(plan, step, Path(tokenizer))
    assert resolved.made_rows.startswith(f"{tmp_path}/store/made-rows/")
    prepared = prepare(selection.suite_of(resolved).tasks[0], selection.source_of(resolved))
    assert [leaf.items for leaf in prepared.leaves] == [100] * 6
    assert {leaf.name for leaf in prepared.leaves} == set(ruler.TASKS)
    written = (tmp_path / "store").rglob("*.parquet")
    times = {path: path.stat().st_mtime_ns for path in written}
    assert prepared_tasks(plan, step, Path(tokenizer))[0].asked == resolved.asked
    assert {path: path.stat().st_mtime_ns for path in times} == times
