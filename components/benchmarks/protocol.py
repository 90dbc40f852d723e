"""How a task's questions are asked: as a chat or as a plain prompt, how often, and with which generation settings.

The plan's options come before the suite's own settings. They hold for tasks whose answers are generated; a choice is
scored by its probability, which has no samples.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks.suites import AUTO, CHATS, NO, YES, SuiteTask
from quantgate.components.benchmarks.thinking import Reply, split, until
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.prompt_settings import NEUTRAL, PromptSettings

if TYPE_CHECKING:
    from quantgate.components.benchmarks.encoder import Encoder
    from quantgate.components.servers.client import Text

INSIDE, OUTSIDE = "inside", "outside"
"""Where an answer of a model that may think begins: inside the thinking if the prompt ends with its opening tag."""


def of_plan(row: SuiteTask, plan: EvaluationPlan) -> SuiteTask:
    """The task with the plan's options; `auto` is decided by whether the model has a chat template."""
    chat = plan.chat or row.chat
    if chat not in CHATS:
        raise PrerequisiteError(f"Unknown --chat {chat!r}. Choose from: {', '.join(CHATS)}.")
    if chat == AUTO:
        chat = YES if plan.has_template else NO
    samples, temperature = plan.samples or row.samples, plan.temperature or row.temperature
    if samples > 1 and not temperature:
        raise PrerequisiteError(
            f"{samples} samples at temperature 0 are {samples} times the same answer. Give --temperature, or 1 sample."
        )
    limit = plan.max_answer_tokens or row.max_tokens
    return replace(row, chat=chat, samples=samples, temperature=temperature, max_tokens=limit)


def request(fields: dict[str, Any], row: SuiteTask) -> dict[str, Any]:
    """The fields of a task's generation request with the row's temperature and limit of tokens."""
    temperature = {"temperature": row.temperature} if row.temperature else {}
    return fields | temperature | ({"max_tokens": row.max_tokens} if row.max_tokens else {})


def seeded(fields: dict[str, Any], sample: int) -> dict[str, Any]:
    """The fields of the request for the sample of this number: each has its own seed, the same for all variants."""
    return fields | {"seed": fields["seed"] + sample}


def stated(settings: PromptSettings, row: SuiteTask) -> PromptSettings:
    """The settings of a task with generated answers, as its requests have them: neutral, of lm-eval, of the row."""
    own: dict[str, Any] = {"temperature": row.temperature, "do_sample": True} if row.temperature else {}
    own |= {"max_gen_toks": row.max_tokens} if row.max_tokens else {}
    generation = tuple({**NEUTRAL, **kwargs, **own} for kwargs in settings.generation or ({},))
    return settings.model_copy(update={"chat": row.chat == YES, "samples": row.samples, "generation": generation})


class Chats:
    """The chats of a task's prompts: lm-eval renders them with this as its chat template."""

    def __init__(self, encoder: "Encoder", row: SuiteTask) -> None:
        self.encoder = encoder
        self.tags = row.thinking
        self.may_think = self.tags.known_to(str(encoder.tokenizer.chat_template))
        self.messages: dict[str, list[dict[str, str]]] = {}

    def __call__(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The rendered messages, which are remembered by their text."""
        messages, text = self.encoder.chat(chat_history, add_generation_prompt)
        self.messages[text] = [dict(message) for message in messages]
        return text

    def fields(self, prompt: str) -> dict[str, Any]:
        """The fields of the chat request whose rendered messages are the prompt."""
        messages = self.messages[prompt]
        begun = messages[-1]["role"] == "assistant"  # the task begins the answer
        return {
            "messages": messages,
            **({"add_generation_prompt": False, "continue_final_message": True} if begun else {}),
        }

    def start(self, prompt: str) -> str:
        """INSIDE or OUTSIDE; empty for a model that does not think."""
        return "" if not self.may_think else INSIDE if self.tags.open_in(prompt) else OUTSIDE


def sent(fields: dict[str, Any], start: str) -> dict[str, Any]:
    """The fields as they are sent: stop sequences end the answer, not the thinking, so they are applied afterwards."""
    return fields | {"stop": []} if start else fields


def reply_of(text: "Text", start: str, row: SuiteTask, stops: list[str]) -> Reply:
    """The thinking and the answer of a generated text."""
    if text.thinking:  # the server has split them
        return Reply(text.thinking, until(text.text, stops), unfinished=text.cut and not text.text)
    if not start:
        return Reply("", text.text)
    reply = split(text.text, row.thinking, opened=start == INSIDE)
    return replace(reply, answer=until(reply.answer, stops))
