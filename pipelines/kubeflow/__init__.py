"""Kubeflow Pipelines: connect, compile, submit, follow, schedule."""
