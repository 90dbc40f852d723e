"""The pipelines, and the command line that starts them.

ship                            the pipeline, read from top to bottom
options                         the plan's options as options of the command line and of the pipeline
local, cluster                  one machine; what only a cluster needs
served_model                    test a model that is already served
judged_models                   let a judge or people judge the replies of served models
watch, terminal_output          the progress and all other text on the terminal
exits, verdict_files            the exit statuses; the verdicts as files for CI
decided_run                     the checked decision of a run, for the commands that act on it
schemas                         the JSON Schemas of the files that a user writes
"""
