"""How a task's prompts were wrapped, its texts generated, and its answers extracted."""

import json

from pydantic import JsonValue

from quantgate.components.storage.artifact import Artifact

NEUTRAL: dict[str, JsonValue] = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""Sent with each request for a text whose task has no other values: a server takes what is missing from the model's
generation_config."""
NEUTRAL_ON_VLLM = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
"""Neutral values of vLLM's own fields; a server that is not vLLM may refuse a field that it does not know."""

NEUTRAL_ON_LLAMA_CPP = {"top_k": 0, "min_p": 0, "repeat_penalty": 1}
"""The same of llama.cpp, whose own values are 40, 0.05 and 1."""


class PromptSettings(Artifact):
    """The settings of one task's prompts and answers. Scores with different settings are not comparable."""

    chat_template: bool = False
    """Whether prompts were put into the model's chat template."""
    chat_template_sha: str = ""
    """The template's hash in results that lm-eval saved; empty otherwise."""
    system_instruction_sha: str = ""
    """The hash of the system instruction in results that lm-eval saved; empty without one."""
    fewshot_as_multiturn: bool = False
    """Whether the shots were turns of a conversation."""
    generation: tuple[dict[str, JsonValue], ...] = ()
    """lm-eval's `generation_kwargs`, with the run's temperature and limit of tokens and the NEUTRAL values: one entry,
    or one for each task of a group where they differ. Empty for a task without generated texts, and for lm-eval's
    defaults in results that lm-eval saved."""
    chat: bool = False
    """Whether the prompts were asked as chats."""
    samples: int = 1
    """How many answers were generated to each item."""
    filter: str = "none"
    """lm-eval's name of the filter that extracts the answer from the text."""

    def describe(self) -> str:
        """The settings in one line, for readers: different settings read differently."""
        parts = [
            f"chat template {self.chat_template_sha}".strip() if self.chat_template else "",
            f"system instruction {self.system_instruction_sha}" if self.system_instruction_sha else "",
            "shots as a conversation" if self.fewshot_as_multiturn else "",
            " and ".join(json.dumps(kwargs, sort_keys=True) for kwargs in self.generation),
            "asked as chats" if self.chat else "",
            f"{self.samples} samples of each item" if self.samples > 1 else "",
            f"filter {self.filter}" if self.filter != "none" else "",
        ]
        return ", ".join(filter(None, parts)) or "lm-eval's defaults"
