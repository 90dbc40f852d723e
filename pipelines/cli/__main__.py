"""`python -m pipelines.cli` is `quantgate`."""

from pipelines.cli.app import main

main()
