"""Flows: what an application asks a model, and how its answers are checked. Several steps read them.

flow_file       the YAML file of a user's own flows
flow_checks     the checks of an answer, as the file has them
json_answers    JSON in an answer, and JSON Schemas of it
"""
