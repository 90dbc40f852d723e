"""The steps `deploy` and `undeploy`: a vLLM server for each variant.

earlier_scores                  a baseline's scores from an earlier run, with which it need not be served
"""
