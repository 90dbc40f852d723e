"""The virtual environments: made from locks of exact versions, and vLLM's found again.

Only the standard library is used: `make` runs this before anything is installed.
"""
