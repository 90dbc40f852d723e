"""Models from the Hugging Face hub: only the model's files, at one commit, in the hub's own cache."""

import glob
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.content import Read
from quantgate.components.storage.store import disk_room

Choose = Callable[[Collection[str], Read], list[str]]
"""Selects a model's files by name, and may read small ones before the weights are downloaded."""


def snapshot(repo: str, revision: str | None, choose: Choose) -> Path:
    """A local folder with the repository's files that `choose` selects by name; the folder's name is the commit.

    Without the network, from the hub's cache. Raises PrerequisiteError for an unknown or gated repository, an unknown
    revision, and when the hub does not answer and the model is not in the cache.
    """
    import httpx
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with _refusals(repo, revision):
            info = HfApi().model_info(repo, revision=revision, timeout=30)
            with disk_room(Path(constants.HF_HUB_CACHE), needed_bytes=0):
                names = choose(
                    [file.rfilename for file in info.siblings or ()],
                    lambda name: Path(hf_hub_download(repo, name, revision=revision)).read_text(encoding="utf-8"),
                )
                # By the revision's name, not by info.sha: only then does the cache know the name without the network.
                return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns(names)))
    except (OfflineModeIsEnabled, httpx.HTTPError) as error:
        return _cached(repo, revision, choose, error)


def model_at(repo: str, revision: str | None) -> tuple[str, dict[str, str]]:
    """The commit of the revision, and by name what tells the content of each of its files; downloads nothing.

    Raises PrerequisiteError as `snapshot` does, and when the hub does not answer.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with _refusals(repo, revision):
            info = HfApi().model_info(repo, revision=revision, timeout=30, files_metadata=True)
    except (OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise PrerequisiteError(
            f"The hub is unavailable: {error}\nCheck the network, HF_ENDPOINT and HF_HUB_OFFLINE."
        ) from error
    files = {
        file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or str(info.sha) for file in info.siblings or ()
    }
    return str(info.sha), files


@contextmanager
def _refusals(repo: str, revision: str | None) -> Iterator[None]:
    """Turn a refusal of the hub's into a PrerequisiteError with what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise PrerequisiteError(
            f"hf:{repo} is gated. Accept its licence on its page, then set HF_TOKEN to a token of that account."
        ) from error
    except RepositoryNotFoundError as error:
        raise PrerequisiteError(
            f"The hub has no model {repo}, or it is private. Check the name, or set HF_TOKEN to a token that may "
            "read it."
        ) from error
    except RevisionNotFoundError as error:
        raise PrerequisiteError(f"hf:{repo} has no revision {revision!r}. Give a branch, a tag or a commit.") from error
    except HFValidationError as error:
        raise PrerequisiteError(f"hf:{repo} is not a valid repository name: {error}") from error


def _cached(repo: str, revision: str | None, choose: Choose, unreachable: Exception) -> Path:
    from huggingface_hub import get_cached_repo_tree, hf_hub_download, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    def cached(name: str) -> Path:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))

    try:
        try:
            listed = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
        except CachedRepoTreeNotFoundError:  # downloaded by a version of the hub's library that kept no list
            listed = [path.name for path in cached("config.json").parent.iterdir()]
        names = choose(listed, lambda name: cached(name).read_text(encoding="utf-8"))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns(names), local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise PrerequisiteError(
            f"hf:{repo} is not in the local hub cache and the hub is unavailable: {unreachable}\nCheck the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or copy the model to this machine and give file:path."
        ) from error


def patterns(names: Collection[str]) -> list[str]:
    """The hub library's patterns for exactly these names."""
    return [glob.escape(name) for name in names]
