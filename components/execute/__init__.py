"""The step `execute`: pass@1 of the programs that a variant wrote.

scores                          run each program once; pass@1 of a task
"""
