"""Kubeflow Pipelines: compile, submit, follow, schedule, and how it is reached."""
