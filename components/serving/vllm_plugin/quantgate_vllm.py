"""A plugin of vLLM (entry point group `vllm.general_plugins`), found on the server's PYTHONPATH; not for import here.

vLLM 0.32 reserves the rows of a prompt's log-probabilities without filling them, and computes those of the tokens that
did not come from the prefix cache. The others hold whatever lay in the memory: it looks like an answer, or it is no
number and the response cannot be sent. Here such rows are marked: their token id is -1.
"""

from vllm.v1.outputs import LogprobsTensors

NOT_COMPUTED = -1


def register() -> None:
    """Called by vLLM in each of its processes."""
    reserve = LogprobsTensors.empty_cpu

    def marked(num_positions: int, num_tokens_per_position: int) -> LogprobsTensors:
        tensors = reserve(num_positions, num_tokens_per_position)
        tensors.logprob_token_ids.fill_(NOT_COMPUTED)
        tensors.logprobs.zero_()
        tensors.selected_token_ranks.zero_()
        return tensors

    LogprobsTensors.empty_cpu = staticmethod(marked)
