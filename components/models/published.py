"""What a source publishes now: the model for a run, and a fingerprint that changes with its content.

Nothing but lists and small files is read, so a look at a source is cheap.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models import hub
from quantgate.components.models.content import INDEX, WEIGHTS, beside_weights, chosen_files
from quantgate.components.storage.store import MARKER

if TYPE_CHECKING:
    from quantgate.components.storage.s3 import S3Store, StoredObject

HUB = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)/(.+)")
EXAMPLES = ("hf:org/name", "s3://bucket/prefix", "s3://bucket/prefix/*", "models:/NAME")


class NotPublishedError(PrerequisiteError):
    """The source has no complete model yet: a later look may find one."""


@dataclass(frozen=True)
class Published:
    """A model that a source publishes."""

    source: str
    """The source of a run on it."""
    description: str
    fingerprint: str
    """sha256 of the source and what tells its content: another content has another one."""
    passed_over: str = ""
    """Why a folder that was written later is not it; empty without such a folder."""


def published(source: str, description: str, content: object) -> Published:
    """The model of that source with the fingerprint of its content, which is anything that JSON can hold."""
    text = json.dumps([source, content], sort_keys=True)
    return Published(source, description, hashlib.sha256(text.encode()).hexdigest())


def published_at(source: str, settled_s: float) -> Published:
    """What a hub repository, an S3 folder, or the newest complete S3 folder below `PREFIX/*` publishes now.

    A folder without the marker of `quantgate` is complete when nothing in it has changed for `settled_s` seconds.
    Raises NotPublishedError when there is no complete model, PrerequisiteError when the source cannot be read.
    """
    if match := HUB.fullmatch(source):
        commit, files = hub.model_at(match[1], match[2])
        content = {name: files[name] for name in may_count(files)}
        return published(source, f"{source} at commit {commit}", content)
    if match := BUCKET.fullmatch(source):
        from quantgate.components.storage.s3 import S3Store

        store = S3Store(f"s3://{match[1]}")
        above, _, last = match[2].rstrip("/").rpartition("/")
        return newest_folder(store, above, settled_s) if last == "*" else folder(store, match[2].rstrip("/"), settled_s)
    raise PrerequisiteError(
        f"{source!r} cannot be looked at for a new model. Give one of: {', '.join(EXAMPLES)}. A model that does not "
        "change is judged once: quantgate submit."
    )


def folder(store: "S3Store", name: str, settled_s: float) -> Published:
    """The model in one folder of the bucket."""
    return folder_with(store, name, store.objects(name), settled_s)


def newest_folder(store: "S3Store", above: str, settled_s: float) -> Published:
    """The complete model in the folder below `above` that was written last."""
    folders: defaultdict[str, dict[str, StoredObject]] = defaultdict(dict)
    for name, stored in store.objects(above).items():
        first, slash, rest = name.partition("/")
        if slash:
            folders[first][rest] = stored
    reasons: list[str] = []
    for name in sorted(folders, key=lambda name: (last_change(folders[name]), name), reverse=True):
        try:
            newest = folder_with(store, f"{above}/{name}".lstrip("/"), folders[name], settled_s)
            return replace(newest, passed_over=reasons[0] if reasons else "")
        except NotPublishedError as reason:
            reasons.append(str(reason))
    here = store.uri(above) if above else f"s3://{store.bucket}"
    raise NotPublishedError(f"no complete model below {here}: {reasons[0] if reasons else 'it has no folders.'}")


def folder_with(store: "S3Store", name: str, objects: "Mapping[str, StoredObject]", settled_s: float) -> Published:
    """The model in the folder with these objects; raises NotPublishedError when it is not complete."""
    uri = store.uri(name)
    if MARKER in objects:
        marker = store.marker(name)
        sizes = {file: stored.size_bytes for file, stored in objects.items()}
        if marker is None or not sizes.items() >= marker.sizes.items():
            raise NotPublishedError(f"{uri} lacks files that its {MARKER} lists.")
        return published(uri, f"{uri} with the digest {marker.digest[:12]}", marker.digest)
    files = {file: objects[file] for file in own_files(store, name, objects)}
    since_s = (datetime.now(UTC) - last_change(files)).total_seconds()
    if since_s < settled_s:
        raise NotPublishedError(
            f"{uri} changed {max(since_s, 0):.0f} s ago. Without {MARKER} it counts as complete after {settled_s:.0f} s"
            " without a change."
        )
    content = {file: [stored.size_bytes, stored.etag] for file, stored in files.items()}
    return published(uri, f"{uri}, last changed {last_change(files):%Y-%m-%d %H:%M:%S} UTC", content)


def may_count(names: Collection[str]) -> list[str]:
    """The sorted names of the files that can be the model's own, by their names alone: the hub's index is not read."""
    weights = [name for name in names if "/" not in name and name.endswith(WEIGHTS)]
    return sorted([*beside_weights(names), *weights])


def own_files(store: "S3Store", name: str, names: Collection[str]) -> list[str]:
    """The names of the model's files, as a run chooses them; raises NotPublishedError while some are missing."""
    uri = store.uri(name)
    if "config.json" not in names:
        raise NotPublishedError(f"{uri} has no config.json.")
    index = (store.get_text(f"{name}/{INDEX}") or "") if INDEX in names else ""
    try:
        return chosen_files(names, lambda _: index)
    except PrerequisiteError as error:
        raise NotPublishedError(f"{uri}: {error}") from None


def last_change(objects: "Mapping[str, StoredObject]") -> datetime:
    """When one of the objects was written last."""
    return max(stored.modified for stored in objects.values())
