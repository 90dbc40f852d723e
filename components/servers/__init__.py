"""A vLLM server wherever it runs: start, address, identity, client, and why it failed."""
