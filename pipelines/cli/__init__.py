"""The command line `quantgate`: one file a group of commands.

app                             all commands
run_command, run_options        `run`; the options that it shares
gate_command, power_command     `gate`; `power`
mlflow_commands                 `track`, `promote`, `rollback`
rollout_command, card_command   `rollout`; `card`
endpoint_commands, benchmark_commands
                                `eval`, `lm-eval`; `suites`, `mirror`, `compare`
judge_commands                  `judge`, `arena`, `vibe`
flows_command                   `flows`
cluster_commands, look_commands
                                `compile`, `submit`, `follow`, `schedule`; `look`, `listen`
doctor_command, setup_command   `doctor`, `setup`
schema_command                  `schema`
progress_bar                    a bar for long work outside a pipeline
"""
