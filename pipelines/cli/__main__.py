"""`python -m quantgate.pipelines.cli` is `quantgate`."""

from quantgate.pipelines.cli.app import main

main()
