"""A variant's server over several steps: its pod may be replaced, and its tokenizer may be on another machine."""

from pathlib import Path

from components.models.digest import fetch_model
from components.run.artifacts import Scores, Server, Weights
from components.run.results import RunResults
from components.servers import lifecycle
from components.storage.cache import cache_dir


class FollowedServer:
    """A variant's server, followed through the replacements of its pod."""

    def __init__(self, serving: Server, results: str) -> None:
        """Begins with the replacements of an earlier step, which only the results have."""
        self.file = RunResults(results).server(serving.variant)
        known = self.file.read(Server)
        self.server = known if known and known.replaced > serving.replaced else serving
        self.server = self.server.model_copy(update={"model_path": serving.model_path})
        self.results, self.before = results, self.server.replaced

    def check(self, cause: str = "") -> None:
        """Wait until the same server answers, else raise PrerequisiteError; `cause` is why a call failed."""
        server = lifecycle.server_again(self.server, self.results, cause)
        if server.replaced > self.server.replaced:
            self.file.write(server)
        self.server = server

    def with_replacements(self, scores: Scores) -> Scores:
        """The scores with the number of replacements, the last ones included; a failure if another server answered."""
        if not scores.failure:
            self.check()
        update: dict[str, object] = {"replaced": self.server.replaced}
        if self.server.replaced > self.before:
            update["tokens_per_s"] = 0.0  # a new server counts from zero
        return scores.model_copy(update=update)


def with_tokenizer(serving: Server, results: str) -> Server:
    """The server with its tokenizer on this machine; the deploy step may have run on another machine."""
    if serving.model_path and Path(serving.model_path).exists():
        return serving
    weights = RunResults(results).weights(serving.variant).read(Weights)
    if weights is None:
        return serving
    folder = fetch_model(weights.uri, weights.digest, cache_dir(), weights=False)
    return serving.model_copy(update={"model_path": str(folder)})
