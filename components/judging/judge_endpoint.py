"""The judge: an OpenAI-compatible model that the user names, asked for verdicts many at a time.

An answer without a readable verdict is never a score. The judge is shown its answer and asked again; after the last
attempt the failure is recorded with its reason, and a rerun asks again. So is a request that fails or takes too long.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.judge_identity import ServedModel, check_judge, served_model
from quantgate.components.judging.judge_prompts import AGAIN, JudgeTask, UnreadableJudgementError
from quantgate.components.judging.judging_options import JudgeOptions
from quantgate.components.judging.kept_lines import KeptLines, key_of
from quantgate.components.servers.access import REFUSED
from quantgate.components.servers.client import CHAT, Client, RefusedError, ServerFailedError

ATTEMPTS = 3
"""How often the judge is asked for one verdict, when its answers cannot be read."""
BAD_REQUEST = 400
QUOTED = 1000
"""So many last characters of an unreadable answer are shown to the judge again: its window may be small."""


@dataclass(frozen=True)
class Asked:
    """One verdict, or why there is none."""

    verdict: Any = None
    failure: str = ""


class Judge:
    """The judge, after the check that it is none of the judged models; keeps each judgement in `kept`."""

    def __init__(self, options: JudgeOptions, judged: Sequence[tuple[str, ServedModel]], kept: KeptLines) -> None:
        self.client = Client(options.url, options.model, options.concurrency, options.timeout_s)
        self.client.key = key_in(options.key_variable)
        advice = (
            f"Correct the key in ${options.key_variable}."
            if options.key_variable
            else "Name the environment variable with its API key: --judge-key VARIABLE."
        )
        found = served_model(self.client, f"The judge demands a key. {advice}")
        self.served = replace(found, digest=options.digest or found.digest)
        check_judge(self.served, judged)
        self.advice = advice
        self.kept = kept
        most = min(options.max_tokens, found.window // 2 or options.max_tokens)
        self.fields: dict[str, Any] = {"temperature": 0, "max_tokens": most}

    def ask_all(
        self,
        tasks: Mapping[Any, JudgeTask],
        read: Callable[[str], Any],
        about: Callable[[Any], dict[str, Any]],
        advance: Callable[[int, int, str], None],
    ) -> dict[Any, Asked]:
        """The verdict on each task, read with `read`; `about` gives what is stored with a task's verdict.

        Raises PrerequisiteError when the judge refuses its key; every other failure is that of one task.
        """
        asked: dict[Any, Asked] = {}

        async def ask(name: Any, task: JudgeTask, session: aiohttp.ClientSession) -> None:
            asked[name] = await self.ask(session, task, read, about(name))
            advance(len(asked), len(tasks), f"judge {self.served.model}")

        def jobs() -> Iterator[Any]:
            for name, task in tasks.items():

                async def job(session: aiohttp.ClientSession, name: Any = name, task: JudgeTask = task) -> None:
                    await ask(name, task, session)

                yield job

        asyncio.run(self.client.run(jobs()))
        return {name: asked[name] for name in tasks}

    async def ask(
        self, session: aiohttp.ClientSession, task: JudgeTask, read: Callable[[str], Any], about: dict[str, Any]
    ) -> Asked:
        """One verdict: the kept one, or the judge's; a failure is stored too, and asked again by a rerun."""
        key = key_of("judgement", self.served.identity, task.messages)
        line = self.kept.get(key)
        if line is not None and not line.get("failure"):
            return Asked(line["verdict"])
        prompt = task.prompt
        stored = {
            **about,
            "judge": self.served.model,
            "judge_digest": self.served.digest,
            "prompt": prompt.name,
            "prompt_version": prompt.version,
            "prompt_sha256": prompt.sha256,
        }
        texts: list[str] = []
        failure = ""
        for _ in range(ATTEMPTS):
            try:
                texts.append(await self.answer(session, task, texts))
                verdict = read(texts[-1])
            except UnreadableJudgementError as error:
                failure = f"no verdict in {len(texts)} answers; in the last, {error}"
            except ServerFailedError as error:
                failure = f"no answer: {error}"
                break
            else:
                self.kept.put(key, {**stored, "verdict": verdict, "answers": texts})
                return Asked(verdict)
        self.kept.put(key, {**stored, "failure": failure, "answers": texts})
        return Asked(failure=failure)

    async def answer(self, session: aiohttp.ClientSession, task: JudgeTask, unreadable: Sequence[str]) -> str:
        """The judge's answer, after its earlier ones that could not be read."""
        messages = list(task.messages)
        for text in unreadable:
            messages.append({"role": "assistant", "content": text[-QUOTED:]})
            messages.append({"role": "user", "content": AGAIN.format(form=task.prompt.form)})
        path, read = CHAT

        async def once() -> str:
            payload = {"model": self.client.model, "messages": messages, **self.fields}
            return str(read(await self.client.post(session, path, payload)).text)

        while True:
            sent = self.fields
            try:
                return await self.client.answered(once)
            except ServerFailedError as error:
                refusal = error.__cause__ if isinstance(error.__cause__, RefusedError) else None
                if refusal is None:
                    raise
                if refusal.status in REFUSED:
                    raise PrerequisiteError(
                        f"The judge at {self.client.root} refuses the request (HTTP {refusal.status}). {self.advice}"
                    ) from error
                if refusal.status != BAD_REQUEST or not self.adapt(str(refusal), sent):
                    raise

    def adapt(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Leave out what the judge's API refuses by name, as those of reasoning models do; False if that is nothing."""
        fields = dict(sent)
        if "max_completion_tokens" in refusal and "max_tokens" in fields:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        if "temperature" in refusal:
            fields.pop("temperature", None)
        changed = fields != sent
        self.fields = fields if changed else self.fields
        return changed


def key_in(variable: str) -> str:
    """The API key in the environment variable; "" without a name. Raises PrerequisiteError for one that is not set."""
    if not variable:
        return ""
    if not os.environ.get(variable):
        raise PrerequisiteError(f"${variable} is not set. Put the judge's API key into it, or leave --judge-key out.")
    return os.environ[variable]
