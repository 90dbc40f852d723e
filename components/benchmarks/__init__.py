"""The benchmarks: suites, tasks, prompts, and the sources of the rows.

suites                          the shipped suites, a row each; `anchors` in a row makes its tiny stage tinyBenchmarks
suite_file, suite_check, own_tasks
                                suites of a user's own: the YAML file, its check, definitions beside it
selection                       the questions of a plan
tasks, harness, templates, seeding
                                lm-eval's definitions, and its tasks on our rows in our order of items
prompts, encoder                the prompts of a suite in one file; text to token ids
protocol, thinking              chats, samples, answer limits; a reasoning model's thinking
anchors, irt, plain_pickle      tinyBenchmarks: the chosen items, and the estimates
row_sources, mirror, embedded, splits
                                where rows come from
calibration_rows                rows of calibration data, from files and data sets
custom, ifeval, ruler           custom tasks; what IFEval and RULER need besides rows
task_score                      a task's score over its items
"""
