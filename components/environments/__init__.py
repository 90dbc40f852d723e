"""The virtual environments, created from locks of exact versions, and how to locate vLLM's.

Only the standard library is used: `make` runs this before anything is installed.
"""
