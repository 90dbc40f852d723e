"""The pipelines, and the command line that starts them."""
