"""Kubeflow Pipelines: connect, compile, submit, follow, schedule, and start a run for a new model.

connection, port_forward        a connection, through a forwarded port if need be
run_parameters, runs            check the parameters, start a run, follow it
run_events, workflow            what a run reports: its steps, its tasks
outcome                         its verdict
look, listen                    start a run for a new model: at each look, at each webhook
"""
