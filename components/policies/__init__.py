"""The limits that decide: bands and use cases, as YAML that a person edits.

published_scores                scores that others have published for a baseline
policy                          the keys of a policy file; `use_cases/` and `bands.yaml` are the shipped ones
"""
