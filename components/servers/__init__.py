"""A vLLM server wherever it runs: start, address, identity, client, and why it failed.

lifecycle                       start, keep alive and stop a server, on this machine or on a cluster
local_vllm                      a process on this machine; `vllm_command` is vLLM's command line
kserve, objects, vllm_pod       a server on a cluster; `vllm_pod` and `objects.answering` are vLLM's command line there
vllm_options                    vLLM's images, and its options on a CPU, for all of these
reported                        what a started server reports about itself
cluster_settings                its settings, QUANTGATE_SERVING_*
why_not_ready, fetch_model      why it does not start; the weights in its pod
client                          the requests
scoring_requests, scoring_ways, abilities
                                the requests that score a continuation, and which of them the server offers
vllm_plugin                     our plugin, loaded by vLLM's own process
"""
