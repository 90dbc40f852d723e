"""A served model for DeepEval: the judge of its metrics, or the model that its benchmarks ask.

    from quantgate.components.judging.deepeval_model import EndpointModel  # first: it turns telemetry off
    judge = EndpointModel("https://judge.example/v1", "large-model", judged=["http://127.0.0.1:8000/v1"])
    GEval(name="polite", criteria="Is the answer polite?", evaluation_params=[...], model=judge)

DeepEval (the extra `deepeval`) needs an environment of its own: it contradicts the versions of a run's. It sends
nothing to its makers here: its telemetry is off, also for the program that imports this module.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.judge_endpoint import BAD_REQUEST, key_in
from quantgate.components.judging.judge_identity import check_judge, served_model
from quantgate.components.servers.client import CHAT, Client, RefusedError, ServerFailedError

os.environ["DEEPEVAL_TELEMETRY_OPT_OUT"] = "1"  # read when DeepEval is imported

try:
    from deepeval.models import DeepEvalBaseLLM
except ImportError:
    raise PrerequisiteError(
        "DeepEval is not installed. Give it an environment of its own: pip install 'quantgate[deepeval]'"
    ) from None

T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)


class EndpointModel(DeepEvalBaseLLM):  # type: ignore[misc]
    """A model behind an OpenAI-compatible API, asked greedily over /v1/chat/completions.

    Raises PrerequisiteError when the server does not answer or does not have the model, and when it serves one of the
    `judged` models. A request that fails in every attempt raises ServerFailedError, so DeepEval has no score for it.
    """

    def __init__(
        self, url: str, model: str = "", *, key_variable: str = "", judged: Sequence[str] = (), max_tokens: int = 1024
    ) -> None:
        """`key_variable` is the environment variable with the API key, `judged` the APIs of the models to be judged."""
        self.client = Client(url, model)
        self.client.key = key_in(key_variable)
        self.max_tokens = max_tokens
        advice = "Name the environment variable with its API key: key_variable."
        served = served_model(self.client, advice)
        check_judge(served, [(address, served_model(Client(address, ""), advice)) for address in judged])
        super().__init__(self.client.model)

    def load_model(self) -> "EndpointModel":
        """Nothing is loaded: the server has the model."""
        return self

    def get_model_name(self) -> str:
        """The name under which the model is served."""
        return self.client.model

    def generate(self, prompt: str, schema: type[S] | None = None) -> str | S:
        """The answer to the prompt; with a schema a value of it, which the server is made to write."""
        return finished(self.a_generate(prompt, schema))

    async def a_generate(self, prompt: str, schema: type[S] | None = None) -> str | S:
        """The coroutine of `generate`. An answer that does not fit the schema raises ServerFailedError."""
        if schema is None:
            return await self.text(prompt)
        form = {"type": "json_schema", "json_schema": {"name": schema.__name__, "schema": schema.model_json_schema()}}
        text = await self.text(prompt, response_format=form)
        try:
            return schema.model_validate_json(text)
        except ValidationError as error:
            raise ServerFailedError(f"{self.client.model} wrote no {schema.__name__}: {error}") from error

    def generate_samples(self, prompt: str, n: int, temperature: float) -> list[str]:
        """So many answers, each with a seed of its own."""

        async def samples() -> list[str]:
            answers = (self.text(prompt, temperature=temperature, seed=seed) for seed in range(n))
            return list(await asyncio.gather(*answers))

        return finished(samples())

    async def text(self, prompt: str, **fields: Any) -> str:
        """The text of one answer, with retries."""
        path, read = CHAT
        payload = {"model": self.client.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        payload |= {"max_tokens": self.max_tokens, **fields}
        async with self.client.session() as session:

            async def once() -> str:
                try:
                    return str(read(await self.client.post(session, path, payload)).text)
                except RefusedError as error:
                    if error.status == BAD_REQUEST and "response_format" in payload:
                        # DeepEval then leaves the schema out
                        raise TypeError(f"The server takes no JSON Schema: {error}") from error
                    raise

            return await self.client.answered(once)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, also where an event loop runs already, as DeepEval's does."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
