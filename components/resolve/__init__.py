"""The step `resolve`: check the parameters; store the model, the rows and the prompts; choose the window.

run_settings, checks            the plan from the parameters; their check
account_rights, cluster_places  what the run's account may do on a cluster; what a run there may name
input_copies, rows              the run's copies of its inputs and of the benchmarks' rows
prepared_prompts                the prompts as token ids, once a run; the window; the items that are too long for it
checked_flows                   which flows can be asked of the model, and the run's copy of them
calibration_texts, scored_overlap
                                the texts of the quantization; the check that they contain nothing that is scored
planned_evidence                what the plan's questions can show, before they are asked
earlier_verdict, counted_attempts
                                a verdict that MLflow has already; how often the base model was judged before
"""
