"""The steps `evaluate-tiny` and `evaluate-full`: the suite's items, scored by the variant's server.

stages, evaluation              one stage: send the prepared prompts, collect scores and records
tested_model, ledger            each question once: from the answer ledger, or else from the server
item_record                     one item's score, by lm-eval's filter and metric
program_tests                   a benchmark's tests of a program
speed                           the server's throughput while it scores
load_test                       its speed under load, after the full stage
early_stop, estimates           when a variant stops; tinyBenchmarks' estimates
endpoint                        the model `vllm-endpoint`, for lm-eval's own command line
"""
