"""The step `track`: record a pipeline run in MLflow, its variants side by side, each with its verdict.

Importing MLflow takes seconds, so only the functions that write a run import it.
"""
