"""The step `execute`: pass@1 of the programs that a variant wrote."""
