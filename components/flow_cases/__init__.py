"""Flows: what an application asks a model, and how its answers are checked. Several steps read them.

flow_file       the YAML file of a user's own flows
flow_checks     the checks of an answer, as the file has them
answer_checks   the fault of an answer by each kind of check
bfcl_rows       rows of the Berkeley Function-Calling Leaderboard as flows
canopy_file     the Canopy course's test files, read as flow files
exchanges       what a model was asked and answered, and what each check found
chat_messages   messages and tools as /v1/chat/completions takes them
flow_tasks      the gate's tasks of flows
losses          what a variant loses on flows
planned_flows   the flows of a plan, before anything is started
tool_parsers    vLLM's parser of a model's tool calls
flow_sources    packs, files and folders with flows; packs/ has the shipped packs
json_answers    JSON in an answer, and JSON Schemas of it
"""
