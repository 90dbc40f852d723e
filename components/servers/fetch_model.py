"""Fetch a model from the store; an init container runs this before vLLM, or its load test, starts.

    python -m quantgate.components.servers.fetch_model s3://BUCKET/PREFIX FOLDER DIGEST [--without-weights]

The bytes are compared with the model's digest. They go to the folder `fetched` beside FOLDER, and
FOLDER is a link to them.
"""

import argparse
import os
import sys
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import fetch_model


def main(arguments: list[str] | None = None) -> int:
    """Fetch the model that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uri", help="the model's address in the store")
    parser.add_argument("folder", type=Path, help="the folder to create")
    parser.add_argument("digest", help="the model's digest")
    parser.add_argument("--without-weights", action="store_true", help="fetch the tokenizer and the settings only")
    options = parser.parse_args(arguments)
    try:
        folder = options.folder.parent / "fetched"
        model = fetch_model(options.uri, options.digest, folder, weights=not options.without_weights)
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    options.folder.unlink(missing_ok=True)  # an earlier attempt in the same pod may have left it
    options.folder.symlink_to(os.path.relpath(model, options.folder.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
