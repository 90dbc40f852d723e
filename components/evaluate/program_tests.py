"""A benchmark's tests of a program, for the judge that runs them in a process without the program."""

import ast


def with_helpers(tests: str, prompt: str) -> str:
    """The tests, after the functions of the prompt that they call; the prompt's last one is the one to write.

    Three of HumanEval's tests call a function that the prompt defines, e.g. `poly` in HumanEval/32. A program contains
    the prompt, but it may define this function again, so the judge has its own.
    """
    try:
        written, tree = ast.parse(prompt).body[:-1], ast.parse(tests)
    except SyntaxError:  # the prompt is not Python, as in MBPP
        return tests
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    helpers = [node for node in written if isinstance(node, ast.FunctionDef)]
    if not used & {helper.name for helper in helpers}:
        return tests
    imports = [node for node in written if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n\n".join([*(ast.unparse(node) for node in (*imports, *helpers)), tests])
