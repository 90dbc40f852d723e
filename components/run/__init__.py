"""A run: its plan, its artifacts, the location of its results, its progress, its per-item records.

plan                            every option of a run with its default and help, and what `resolve` adds
artifacts, records              what the steps write for each other; one row for each answer
verdicts                        the decision matrix, and the evidence for each verdict
evidence_digests, evidence_check
                                what a verdict was reached by, as digests; whether a decision has these digests
load_results                    the load test of a server, and how a run asks for it
attempts                        how often a base model's variants were judged for a use case
results                         the name and place of every file of a run
prompt_settings, server_identity, calibration
                                what must be equal for two variants to be comparable
checkpoint                      a quantized checkpoint that the run was given
progress, shell, machine        progress lines; the image of kfp's components; the GPUs of this machine
"""
