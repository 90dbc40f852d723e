"""The steps `evaluate-tiny` and `evaluate-full`: the suite's items, scored by the variant's server."""
