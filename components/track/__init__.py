"""The step `track`: a pipeline run in MLflow, its variants side by side, each with its verdict.

MLflow takes seconds to import: it is imported where a run is written.
"""
