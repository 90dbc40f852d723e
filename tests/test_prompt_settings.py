"""A task's prompt settings: one text for each value, and a definition of lm-eval as a value."""

from pathlib import Path

import pytest

from components.benchmarks import tasks
from components.benchmarks.suites import HUMANEVAL, SUITES
from components.run.artifacts import TaskScore
from components.run.prompt_settings import PromptSettings

GENERATED = PromptSettings(
    chat_template=True, generation=({"until": ["\n\n"], "do_sample": False},), filter="strict-match"
)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (PromptSettings(), "lm-eval's defaults"),
        (GENERATED, 'chat template, {"do_sample": false, "until": ["\\n\\n"]}, filter strict-match'),
        (
            PromptSettings(
                chat_template=True, chat_template_sha="ab", system_instruction_sha="cd", fewshot_as_multiturn=True
            ),
            "chat template ab, system instruction cd, shots as a conversation",
        ),
        (PromptSettings(generation=({"temperature": 0.0}, {})), '{"temperature": 0.0} and {}'),
    ],
    ids=["defaults", "generated", "of lm-eval's results", "a group whose tasks differ"],
)
def test_the_settings_read_as_one_line(settings: PromptSettings, text: str) -> None:
    assert settings.describe() == text


def test_a_score_reads_back_the_settings_that_it_wrote(tmp_path: Path) -> None:
    score = TaskScore(
        task="gsm8k", metric="exact_match", score=0.4, stderr=0.1, items=9, shots=5, chance=0.0, version="3.0",
        settings=GENERATED,
    )  # fmt: skip
    score.write(tmp_path / "score.json")
    assert TaskScore.read(tmp_path / "score.json") == score


def test_the_settings_of_a_task_of_lm_eval_are_its_definitions() -> None:
    definition = tasks.raw_definition(tasks.task_file(HUMANEVAL.task))
    assert tasks.prompt_settings(HUMANEVAL, definition, chat_template=False) == PromptSettings(
        generation=(definition["generation_kwargs"],), filter="create_test"
    )
    arc = SUITES["demo"].tasks[0]
    found = tasks.prompt_settings(arc, tasks.raw_definition(tasks.task_file(arc.task)), chat_template=True)
    assert found == PromptSettings(chat_template=True)
