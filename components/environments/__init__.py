"""The virtual environments, created from locks of exact versions, and how to locate vLLM's.

Only the standard library is used: `make` runs this before anything is installed.

virtual_environment             build an environment from a lock, and again when the lock changes
serving_environment             vLLM's environment: find it, or make it in the cache
"""
