"""Which parser of vLLM's reads a model's tool calls: the one for the form that its chat template teaches.

A parser fits a form of calls, not an architecture: SmolLM2, Llama 3 and xLAM are all `llama`. The marks are those that
the parsers of vLLM 0.32 look for, and the names are its own.
"""

from components.errors import PrerequisiteError

NONE = "none"
"""The option's value for a run whose flows with tools are left out."""
MARKS = (
    ("<|tool_call>", "gemma4"),
    ("<function=", "qwen3_coder"),
    ("<tool▁calls▁begin>", "deepseek_v3"),
    ("<|tool▁calls▁begin|>", "deepseek_v3"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<arg_key>", "glm45"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<seed:tool_call>", "seed_oss"),
    ("<|channel|>", "openai"),
    ("<|start_function_call|>", "functiongemma"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|tool_list_start|>", "lfm2"),
    ("<|tool_call|>", "granite"),
    ("<|python_tag|>", "llama3_json"),
    ("Environment: ipython", "llama3_json"),
    ("functools[", "phi4_mini_json"),
    ("<tool_call>", "hermes"),
)
"""A mark in the chat template, and the parser of calls with it; the first mark that a template has counts."""


def parser_of(template: str) -> str:
    """The parser for the tool calls that the chat template teaches; "" when none is known."""
    return next((parser for mark, parser in MARKS if mark in template), "")


def chosen_parser(option: str, template: str, cases: int) -> str:
    """The parser of the option, or of the template; "" for none. Raises PrerequisiteError when neither names one."""
    if option:
        return "" if option == NONE else option
    if parser := parser_of(template):
        return parser
    raise PrerequisiteError(
        f"{cases} flows have tools, and no parser of tool calls is known for the model's chat template. Name vLLM's"
        f" with --tool-call-parser (hermes, llama3_json, mistral, pythonic, …), or leave these flows out with"
        f" --tool-call-parser {NONE}."
    )
