"""Run programs that a language model wrote, always in a sandbox.

containment                     what a program gets and what it may not do: bubblewrap, a pod, limits
contained_run                   start one program in it, stop it at its limits, read how it ended
judging_process                 the first process in the sandbox: it forks the program and reports the verdict
judge                           the benchmark's tests, in that process
served_program                  the program's process: it answers the judge's calls
values                          what the two send each other
refused_calls, landlock         the kernel calls and files that are refused
job, pod, pod_outcomes          the same in a pod of a cluster
programs                        all programs of a variant
"""
