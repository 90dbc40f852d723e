"""The structure of the code: imports point down, no step imports another, no circles, no name twice."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPONENTS = "quantgate.components."
FILES = {
    ".".join(("quantgate", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for package in ("components", "pipelines")
    for file in (ROOT / package).rglob("*.py")
    if "vllm_plugin" not in file.parts  # vLLM's process imports it, and nothing here does
}
STEPS = sorted(metadata.parent.name for metadata in (ROOT / "components").glob("*/metadata.yaml"))
SAME_IN_EVERY_FOLDER = {"__init__", "__main__", "component", "step"}
NAMES_RESULTS = ("quantgate.components.run.results", "quantgate.components.tracking.tags")
"""The second contains the names of a run's artifacts in MLflow, which are not files of the results."""
RESULT = re.compile(
    r"^(variants|plots|judged|given|logs)/|^(tiny|full|again)\.parquet$|^report\.(html|md)$|^progress\.jsonl$"
    r"|^(plan|decision|verdicts?|weights|server|scores|tiny|full|flips|facts|tracked|registered|promotion|run)\.json$"
)
USES_KFP = (
    "quantgate.pipelines.ship",
    "quantgate.pipelines.cluster",
    "quantgate.pipelines.local",
    "quantgate.pipelines.kubeflow.",
)


@cache
def tree(module: str) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> tuple[tuple[int, str], ...]:
    """The line and the module of each import, including those inside functions."""
    pairs = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            pairs += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
            pairs += [(node.lineno, name if name in FILES else str(node.module)) for name in names]
    return tuple(dict.fromkeys(pairs))


def describe(module: str, line: int, imported: str) -> str:
    """An import as an assertion's message shows it."""
    return f"{FILES[module].relative_to(ROOT)}:{line} imports {imported}"


def every_import() -> Iterator[tuple[str, int, str]]:
    """Each importing module, with line and imported module."""
    for module in FILES:
        for line, imported in imports(module):
            yield module, line, imported


def step_of(module: str) -> str:
    """The step whose folder contains the module; empty for modules above or below the steps."""
    folder = module.removeprefix(COMPONENTS).partition(".")[0]
    return folder if module.startswith(COMPONENTS) and folder in STEPS else ""


def test_components_never_import_pipelines() -> None:
    upward = [
        describe(*violation)
        for violation in every_import()
        if violation[0].startswith(COMPONENTS) and violation[2].startswith("quantgate.pipelines")
    ]
    assert upward == []


def test_only_pipelines_and_the_step_itself_import_a_step() -> None:
    wrong = [
        describe(module, line, imported)
        for module, line, imported in every_import()
        if step_of(imported) and module.startswith(COMPONENTS) and step_of(module) != step_of(imported)
    ]
    assert wrong == []


def test_only_components_and_the_code_that_builds_or_sends_the_pipeline_import_kfp() -> None:
    wrong = [
        describe(module, line, imported)
        for module, line, imported in every_import()
        if imported.partition(".")[0] in ("kfp", "kfp_server_api")
        and not (step_of(module) and module.endswith(".component"))
        and not module.startswith(USES_KFP)
    ]
    assert wrong == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {
        module: {imported for _, imported in imports(module) if imported in FILES and imported != module}
        for module in FILES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise AssertionError(f"These modules import each other in a circle: {circle}") from None


def test_folders_of_components_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, _, imported in every_import():
        folder, other = (".".join(name.split(".")[:3]) for name in (module, imported))
        if folder.startswith(COMPONENTS) and other.startswith(COMPONENTS) and folder != other:
            graph.setdefault(folder, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"These folders import each other in a circle: {' <- '.join(error.args[1])}") from None


def test_each_folder_says_what_its_modules_hold() -> None:
    own_files = {"__init__", "__main__", "component", "step"}
    missing = {}
    for package in sorted(
        file.parent for top in ("components", "pipelines") for file in (ROOT / top).rglob("__init__.py")
    ):
        contents = (package / "__init__.py").read_text(encoding="utf-8")
        named = set(re.findall(r"\w+", contents))
        missing[package.relative_to(ROOT)] = {file.stem for file in package.glob("*.py")} - own_files - named
    assert {package: names for package, names in missing.items() if names} == {}


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(file.stem for file in FILES.values() if file.stem not in SAME_IN_EVERY_FOLDER)
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_no_two_public_classes_have_the_same_name() -> None:
    where: dict[str, list[str]] = {}
    for module in FILES:
        for node in tree(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def literals(module: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each string except docstrings, including the plain parts of f-strings."""
    nodes = [*ast.walk(tree(module))]
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_only_run_results_contains_the_paths_of_a_runs_files() -> None:
    wrong = [
        f"{FILES[module].relative_to(ROOT)}:{line} names {text!r}"
        for module in FILES
        if module not in NAMES_RESULTS
        for line, text in literals(module)
        if RESULT.search(text) and " " not in text
    ]
    assert wrong == []


def test_every_step_has_the_same_shape() -> None:
    lacking = [
        f"components/{step}/{file}"
        for step in STEPS
        for file in ("__init__.py", "component.py", "step.py", "metadata.yaml", "tasks.yaml")
        if not (ROOT / "components" / step / file).is_file()
    ]
    assert lacking == []
    assert sorted(file.parent.name for file in (ROOT / "components").glob("*/component.py")) == STEPS


def test_a_component_has_the_form_that_kfp_reads() -> None:
    """kfp copies a component's source, so imports and definitions outside the function are missing when it runs."""
    for step in STEPS:
        module = f"{COMPONENTS}{step}.component"
        assert {imported for _, imported in imports(module)} & {"__future__"} == set(), module
        for node in tree(module).body:
            allowed = (ast.FunctionDef, ast.Import, ast.ImportFrom)
            is_docstring = isinstance(node, ast.Expr)
            assert is_docstring or isinstance(node, allowed), f"{module}:{node.lineno} is outside of a shell"
            if isinstance(node, ast.FunctionDef):
                assert isinstance(node.body[0], ast.Expr), f"{module}.{node.name} has no docstring"
                assert isinstance(node.body[1], ast.ImportFrom), f"{module}.{node.name} imports outside of its body"
