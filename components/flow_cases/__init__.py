"""Flows: what an application asks a model, and how its answers are checked. Several steps read them.

flow_file       the YAML file of a user's own flows
flow_checks     the checks of an answer, as the file has them
answer_checks   the fault of an answer by each kind of check
canopy_file     the Canopy course's test files, read as flow files
flow_sources    packs, files and folders with flows; packs/ has the shipped packs
json_answers    JSON in an answer, and JSON Schemas of it
"""
