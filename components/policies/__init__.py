"""The limits that decide: bands and use cases, as YAML that a person edits."""
