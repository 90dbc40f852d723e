"""Kubeflow Pipelines: connect, compile, submit, follow, schedule, and start a run for a new model."""
