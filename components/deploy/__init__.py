"""The steps `deploy` and `undeploy`: a vLLM server for each variant."""
