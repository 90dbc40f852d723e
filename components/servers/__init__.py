"""A vLLM server wherever it runs: start, address, identity, client, and why it failed.

lifecycle                       start, keep alive and stop a server, on this machine or on a cluster
local_vllm, local_llama, local_server
                                vLLM and llama.cpp on this machine, and what starts and stops their processes;
                                `vllm_command` is vLLM's command line
llama_server, llama_options     the program that serves a GGUF file with llama.cpp, and its options
kserve, objects, vllm_pod, llama_pod, cluster_engine
                                a server on a cluster; `vllm_pod` and `objects.answering` are vLLM's command line there,
                                `llama_pod` is llama.cpp's, and `cluster_engine` chooses between them
vllm_options                    vLLM's images, and its options on a CPU, for all of these
reported                        what a started server reports about itself
cluster_settings                its settings, QUANTGATE_SERVING_*
accelerator                     what it runs on, here or on the cluster's nodes
before_start, first_cause       what is known to end a server; why one ended
why_not_ready, replaced_pod     the same on a cluster; a pod that Kubernetes replaces
step_job                        a Job on a cluster that a step runs to its end
bench_serve, bench_command      vLLM's load test: its results, and its command
bench_process, bench_job        the load test on this machine, and on a cluster
fetch_model                     the weights in its pod
followed_server                 a server over several steps
access, probes, start_key       its API key, and whether it is ours; the key on a cluster
client                          the requests
scoring_requests, scoring_ways, abilities
                                the requests that score a continuation, and which of them the server offers
vllm_plugin                     our plugin, loaded by vLLM's own process
"""
