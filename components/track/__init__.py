"""The step `track`: record a pipeline run in MLflow, its variants side by side, each with its verdict.

Importing MLflow takes seconds, so only the functions that write a run import it.

mlflow_rows                     what MLflow shows of a decision
cost_metrics, work_times        what a variant cost, and when the work was done
logged_models                   the variants' weights as MLflow's LoggedModels
mlflow_writer                   write it, without duplicates
flip_tables                     the gate's tables of flips
history                         months of runs as one table
spool                           a run that MLflow did not take
"""
