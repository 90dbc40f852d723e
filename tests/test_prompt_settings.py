"""A task's prompt settings: one text for each value, and a definition of lm-eval as a value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.benchmarks import protocol, tasks
from quantgate.components.benchmarks.encoder import generation_request
from quantgate.components.benchmarks.suites import HUMANEVAL, SUITES
from quantgate.components.run.artifacts import TaskScore
from quantgate.components.run.prompt_settings import PromptSettings

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
    settings = tasks.prompt_settings(arc, tasks.raw_definition(tasks.task_file(arc.task)), chat_template=True)
    assert settings == PromptSettings(chat_template=True)


@pytest.mark.fault(
    "numbers",
    "a server takes sampling values that no request names from the model's generation_config",
    "every request names neutral values, and the score records what was sent",
)
@pytest.mark.parametrize(
    ("own", "row", "sent"),
    [
        ({}, {}, {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}),
        ({"top_p": 0.9}, {}, {"top_p": 0.9, "presence_penalty": 0, "frequency_penalty": 0}),
        (
            {"temperature": 0.2, "do_sample": False},
            {"temperature": 0.6},
            {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "temperature": 0.6, "do_sample": True},
        ),
    ],
)
def test_a_score_records_the_sampling_values_that_its_requests_had(
    own: dict[str, Any], row: dict[str, Any], sent: dict[str, Any]
) -> None:
    task = replace(HUMANEVAL, **row)
    settings = tasks.prompt_settings(task, {"generation_kwargs": {"until": ["#"], **own}}, chat_template=False)
    (recorded,) = protocol.stated(settings, task).generation
    assert {name: value for name, value in recorded.items() if name not in ("until", "max_gen_toks")} == sent
    request = protocol.request(generation_request(dict(settings.generation[0])), task)
    assert request.items() >= {name: value for name, value in sent.items() if name != "do_sample"}.items()
