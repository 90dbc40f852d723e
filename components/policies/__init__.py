"""The limits that decide: bands and use cases, as YAML that a person edits.

policy                          the keys of a policy file; `use_cases/` and `bands.yaml` are the shipped ones
"""
