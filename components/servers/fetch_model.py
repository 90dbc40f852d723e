"""Bring a model from the store to a folder: what the pod of a plain Deployment does before vLLM starts.

    python -m components.servers.fetch_model s3://BUCKET/PREFIX FOLDER

It is checked against its marker on the way, and FOLDER is a link to it, in the folder `fetched` beside it.
"""

import argparse
import os
import sys
from pathlib import Path

from components.errors import PrerequisiteError
from components.storage.location import fetch


def main(arguments: list[str] | None = None) -> int:
    """Fetch what the command line says; returns the exit status to leave with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uri", help="where the model lies in the store")
    parser.add_argument("folder", type=Path, help="where it is to be found")
    options = parser.parse_args(arguments)
    try:
        found = fetch(options.uri, options.folder.parent / "fetched")  # a bucket may be called as the link is
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    options.folder.unlink(missing_ok=True)  # of an attempt before, in the same pod
    options.folder.symlink_to(os.path.relpath(found, options.folder.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
