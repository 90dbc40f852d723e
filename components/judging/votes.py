"""Read the votes of people back: files that the page of `quantgate vibe` downloads, with the page's key."""

from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.vibe_page import VibeKey
from quantgate.components.storage.artifact import Artifact

Choice = Literal["A", "B", "tie", "bad"]


class Votes(Artifact):
    """One person's votes on a page."""

    form: Literal[1]
    page: str
    voter: str = ""
    votes: dict[int, Choice]
    """The choice by the number of the question on the page, from 0."""


class CountedVotes(Artifact):
    """The votes of all people on one page."""

    shares: dict[str, float | None]
    """The variant's share of a win by question, the mean over its votes; None for a question without votes."""
    categories: dict[str, str]
    both_bad: int
    """Votes that both replies are bad; they count as ties."""
    votes: int
    voters: int


def read_key(file: Path) -> VibeKey:
    """The key of a page; raises PrerequisiteError for another file."""
    try:
        return VibeKey.read(file)
    except OSError as error:
        raise PrerequisiteError(
            f"There is no key {file}. Name the file that `quantgate vibe` wrote: --key FILE."
        ) from error
    except ValidationError as error:
        raise PrerequisiteError(f"{file} is not the key of a page: {error.errors()[0]['msg']}.") from error


def read_votes(file: Path, key: VibeKey) -> Votes:
    """The votes in a file; raises PrerequisiteError for votes on another page."""
    try:
        votes = Votes.read(file)
    except OSError as error:
        raise PrerequisiteError(f"There are no votes at {file}. Name the file that the page downloaded.") from error
    except ValidationError as error:
        reason = ": ".join([*filter(None, [".".join(map(str, error.errors()[0]["loc"]))]), error.errors()[0]["msg"]])
        raise PrerequisiteError(f"{file} has no valid votes: {reason}.") from error
    if votes.page != key.page:
        raise PrerequisiteError(
            f"{file} has votes on the page {votes.page[:16]}, and the key is of the page {key.page[:16]}. Name the key "
            "of the page that was voted on: --key FILE."
        )
    if wrong := [number for number in votes.votes if not 0 <= number < len(key.entries)]:
        raise PrerequisiteError(f"{file} has a vote on question {wrong[0]}, and the page has {len(key.entries)}.")
    return votes


def counted(votes: Sequence[tuple[str, Votes]], key: VibeKey) -> CountedVotes:
    """The variant's share of a win on each question, from votes with the names of their files.

    Several people's votes on a question are one share, their mean. Raises PrerequisiteError if one file is there twice,
    or one name.
    """
    voters: dict[str, str] = {}
    for file, one in votes:
        voter = one.voter.strip().lower() or one.model_dump_json()
        if voter in voters:
            raise PrerequisiteError(f"{file} and {voters[voter]} are votes of the same person. Leave one of them out.")
        voters[voter] = file
    shares: dict[str, float | None] = {}
    for number, entry in enumerate(key.entries):
        found = [share_of_vote(one.votes[number], entry.variant_is) for _, one in votes if number in one.votes]
        shares[entry.question] = fsum(found) / len(found) if found else None
    return CountedVotes(
        shares=shares | dict.fromkeys(key.missing),
        categories={entry.question: entry.category for entry in key.entries} | key.missing,
        both_bad=sum(choice == "bad" for _, one in votes for choice in one.votes.values()),
        votes=sum(len(one.votes) for _, one in votes),
        voters=len(votes),
    )


def share_of_vote(choice: Choice, variant_is: Literal["A", "B"]) -> float:
    """The variant's share of a win from one vote."""
    return 0.5 if choice in ("tie", "bad") else float(choice == variant_is)
