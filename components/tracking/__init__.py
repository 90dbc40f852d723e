"""MLflow: its address, its client, its pages, and the results of earlier runs.

connect, uris, links            a client that answers; addresses
earlier                         which earlier run may be taken over: its verdict, its baseline
earlier_attempts                how often variants of a base model were judged
verification                    whether what MLflow holds of a run is what its verdict was reached by
signature                       whether this account recorded a run
experiments                     what this account may do with an experiment
facts, tags, tracked_run        what a run is recorded with, and where
kubeflow_run                    the run of Kubeflow's own plugin
model_versions                  the newest version of a registered model
"""
