"""Judge the replies of a baseline and its variants: the models, the questions, the replies, then a judge or people."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import selection
from quantgate.components.judging.chat_questions import (
    MT_BENCH,
    ChatQuestion,
    chosen,
    mt_bench,
    read_questions,
    with_references,
)
from quantgate.components.judging.contestants import Contestant, contestants
from quantgate.components.judging.grading import Failure, graded
from quantgate.components.judging.judge_endpoint import Judge
from quantgate.components.judging.judged_results import JudgedResult, arena_result, grades_result, votes_result
from quantgate.components.judging.judging_options import KEY, PAGE, JudgeOptions, Panel
from quantgate.components.judging.kept_lines import KeptLines
from quantgate.components.judging.pairwise import compared
from quantgate.components.judging.replies import (
    MT_BENCH_TEMPERATURES,
    ChatReplies,
    ReplySettings,
    replies_of,
    write_replies,
)
from quantgate.components.judging.vibe_page import VibeKey, vibe_page
from quantgate.components.judging.votes import counted, read_key, read_votes
from quantgate.components.run.progress import Step
from quantgate.components.storage.artifact import write_text
from quantgate.components.storage.cache import cache_dir

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Source

REPLIES, JUDGEMENTS = "replies.jsonl", "judgements.jsonl"
SEED_BITS = 31


def models_of(panel: Panel) -> tuple[Contestant, ...]:
    """The models, the baseline first; each answers already."""
    return contestants(panel.baseline, panel.variants, panel.models, panel.concurrency)


def questions_of(panel: Panel) -> tuple[ChatQuestion, ...]:
    """The questions, at most `limit`, with the reference answers of `references`."""
    if panel.questions == MT_BENCH:
        questions = mt_bench(source_of_rows(panel.data))
    else:
        questions = read_questions(Path(panel.questions))
    questions = with_references(questions, panel.references) if panel.references else questions
    return chosen(questions, panel.limit)


def settings_of(panel: Panel) -> ReplySettings:
    """How the models are asked: MT-Bench has its own temperatures."""
    temperatures = MT_BENCH_TEMPERATURES if panel.questions == MT_BENCH else None
    return ReplySettings(panel.max_tokens, panel.seed, temperatures)


def source_of_rows(data: str) -> "Source":
    """The hub, or a mirror."""
    from quantgate.components.benchmarks.row_sources import Hub, Mirror

    return Hub(cache_dir()) if data == selection.HUB else Mirror(data, cache_dir())


Replies = Mapping[str, Mapping[str, ChatReplies]]


def replies_to(
    questions: Sequence[ChatQuestion], models: Sequence[Contestant], panel: Panel, step: Step
) -> dict[str, dict[str, ChatReplies]]:
    """The replies of each model by question; kept in the output folder, where they are written a file a model too."""
    kept = KeptLines(panel.out / REPLIES)
    replies = {}
    for model in models:
        replies[model.name] = replies_of(model, questions, settings_of(panel), kept, step.advance)
        if model.client:
            write_replies(panel.out / "models" / f"{model.name}.jsonl", model, replies[model.name])
    return replies


def judge_panel(panel: Panel, options: JudgeOptions, kind: str, step: Step) -> JudgedResult:
    """The judge's grades (`grades`) or comparisons (`arena`) of the panel's replies.

    The judge is checked before any model is asked.
    """
    questions = questions_of(panel)
    models = models_of(panel)
    kept = KeptLines(panel.out / JUDGEMENTS)
    judge = Judge(options, [(model.name, model.served) for model in models], kept)
    replies = replies_to(questions, models, panel, step)
    baseline, source = models[0].name, panel.questions
    if kind == "grades":
        result = grades_result(judge, baseline, source, questions, graded(judge, questions, replies, step.advance))
    else:
        result = arena_result(judge, baseline, source, questions, compared(judge, questions, replies, step.advance))
    return result.model_copy(update={"cut": cut_of(replies)})


def cut_of(replies: Replies) -> dict[str, int]:
    """How many replies of each model the limit of tokens cut."""
    return {name: sum(one.cut for one in by_question.values()) for name, by_question in replies.items()}


def made_page(panel: Panel, seed: int | None, step: Step) -> tuple[Path, VibeKey, tuple[Failure, ...]]:
    """Write the page for blind votes and its key into the output folder; returns the page's file.

    Without a seed a page that is made again keeps the sides of the last one, so that its votes still fit.
    """
    questions, models = questions_of(panel), models_of(panel)
    replies = replies_to(questions, models, panel, step)
    key_file = panel.out / KEY
    if seed is None:
        seed = read_key(key_file).seed if key_file.exists() else secrets.randbits(SEED_BITS)
    page, key, failures = vibe_page(questions, replies, seed)
    write_text(panel.out / PAGE, page)
    key.write(key_file)
    key_file.chmod(0o600)
    return panel.out / PAGE, key, failures


def judged_by_people(files: Sequence[Path], key_file: Path) -> JudgedResult:
    """The arena of people's votes, read with the page's key."""
    key = read_key(key_file)
    votes = [(str(file), read_votes(file, key)) for file in files]
    source = f"page {key.page[:16]}"
    return votes_result(key.baseline, key.variant, source, counted(votes, key))


def result_json(result: JudgedResult) -> str:
    """The result for a script."""
    return json.dumps(result.model_dump(mode="json"), indent=2)
