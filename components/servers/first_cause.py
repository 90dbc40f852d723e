"""Why a vLLM server ended: the first cause in its log, and what to do about a known one.

vLLM's engine runs in processes of its own. The process that fails writes the cause, with or without a level before each
line; the others then write that an engine failed ("See root cause above"), often hundreds of lines later.
"""

import re
import signal
from collections.abc import Iterator, Sequence

COLOUR = re.compile(r"\x1b\[[\d;]*m")
PROCESS = re.compile(r"^\(([\w.-]+(?: pid=\d+)?)\)\s?")
LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: \d\d-\d\d \d\d:\d\d:\d\d)?(?: \[[^\]]+:\d+\])?(?: |$)")
NOT_FATAL = ("DEBUG", "INFO", "WARNING")
"""A warning may name an error that has not happened, as vLLM's warning on the limit of open files does."""
RAISED = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)(?:: \S.*)?)$")
"""The last line of a traceback, without the module of the exception."""
NAMED = re.compile(r"\b\w+(?:Error|Exception): .*\S")
DIED = re.compile(
    r"^(?:\S+: error: |\s*what\(\):\s+|Fatal Python error: )\S.*|^(?:Segmentation fault|Illegal instruction|Bus error)"
)
"""What ends a process without a traceback: a refused option, an exception of C++, a signal."""
CONSEQUENCE = re.compile(
    r"[Ss]ee (?:the )?(?:root cause|stack ?trace|above)|root cause above|Engine core initialization failed"
    r"|EngineDead|WorkerProc initialization failed|BrokenPipe|ConnectionReset|CancelledError|/(?:psm_|mp-)\w+'$"
)
"""What other processes say about the one that failed, or while they stop."""
ENDED = re.compile(r"Failed core proc\(s\): \{[^}]*'([\w-]+)': -(\d+)")
ANOTHER = "During handling of the above exception, another exception occurred:"
LOOKUPS = ("KeyError", "AttributeError", "IndexError", "StopIteration", "ModuleNotFoundError")
"""Code tries one way and then another: of such an exception the one after it says more."""
CONTINUED = re.compile(r"validation errors? for \w+$|[Rr]easons?:$")
"""The next line says what the error is."""

MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|No available memory for the cache blocks|desired GPU memory utilization"
    r"|larger than the (?:maximum number of tokens|available KV cache)|larger than available KV cache",
    re.I,
)
"""The device's memory is too small, or in use."""
KNOWN = (
    (
        MEMORY,
        (
            "The memory of the device is too small or in use: end what else uses it, use a larger device, or a shorter "
            "window (--max-model-len, which leaves items out)."
        ),
    ),
    (
        re.compile(r"architectures? .*not supported|does not recognize this architecture"),
        "This vLLM cannot serve this kind of model: choose another model, or a vLLM that supports it.",
    ),
    (
        re.compile(
            r"Failed to find a kernel|[Mm]inimum capability|no kernel image|not supported for the current GPU"
            r"|compute capability|Unknown quantization method|Int8 not supported"
        ),
        "vLLM cannot run this format on this device: leave the variant out (--variants), or use a newer device.",
    ),
    (
        re.compile(r"[Aa]ddress already in use"),
        "Another process took the port: run it again.",
    ),
    (
        re.compile(
            r"load(?:ing)? (?:the )?tokenizer|[Cc]ouldn't instantiate the backend tokenizer|tokenizer.*not found"
        ),
        "The model's folder lacks a tokenizer that works: add tokenizer.json to the model.",
    ),
    (
        re.compile(r"No space left on device|Disk quota exceeded"),
        "The disk, or the shared memory in /dev/shm, is full: make room.",
    ),
    (
        re.compile(r"greater than the derived max_model_len"),
        "The window is longer than the model's own: give a smaller --max-model-len.",
    ),
    (
        re.compile(r"signal 9\b|\bSIGKILL\b"),
        "The kernel ends a process so when main memory runs out: free some, or use a machine with more.",
    ),
    (
        re.compile(r"signal 4\b|\bSIGILL\b|Illegal instruction"),
        "This CPU lacks an instruction that vLLM was built for: use another machine.",
    ),
)
"""Texts of causes, and what to do."""


def first_cause(lines: Sequence[str]) -> str:
    """The first cause in vLLM's log, a known one before others, such as "ValueError: No available memory"; "" for none.

    Neither a warning is a cause nor what one process says about the failure of another.
    """
    lines = [COLOUR.sub("", line).rstrip() for line in lines]
    causes = [*raised(lines), *named(lines)]
    if known := next((cause for cause in causes if advice(cause)), ""):
        return known
    if causes:
        return causes[0]
    ended = next((match for line in lines if (match := ENDED.search(line))), None)
    return f"The process {ended[1]} was ended by {name_of(int(ended[2]))}" if ended else ""


def advice(cause: str) -> str:
    """What to do about a known cause; "" about another."""
    return next((what for pattern, what in KNOWN if pattern.search(cause)), "")


def described(cause: str) -> str:
    """The cause as a sentence, with what to do about a known one; "" for none."""
    return f"{cause.rstrip('.')}. {advice(cause)}".strip() if cause else ""


def name_of(number: int) -> str:
    """A signal's number and name."""
    known = {entry.value: f" ({entry.name})" for entry in signal.Signals}
    return f"signal {number}{known.get(number, '')}"


def fatal(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The process and the text of each line that is no warning or information."""
    for line in lines:
        process = PROCESS.match(line)
        text = line[process.end() :] if process else line
        level = LEVEL.match(text)
        if not level or level[1] not in NOT_FATAL:
            yield (process[1] if process else "", text[level.end() :] if level else text)


def raised(lines: Sequence[str]) -> list[str]:
    """The exceptions in the log, in order, without consequences; lines of several processes may alternate."""
    causes: list[str] = []
    last: dict[str, int] = {}
    continued: dict[str, int] = {}
    another: set[str] = set()
    for process, text in fatal(lines):
        if process in continued and text.strip():
            causes[continued.pop(process)] += f" {text.strip()}"
        elif text == ANOTHER:
            another.add(process)
        elif cause := stated(text):
            replaced = last.get(process, -1) if process in another else -1
            another.discard(process)
            if CONSEQUENCE.search(cause):
                continue
            if replaced >= 0 and causes[replaced].startswith(LOOKUPS):
                causes[replaced] = cause
            else:
                last[process] = len(causes)
                causes.append(cause)
            if CONTINUED.search(cause):
                continued[process] = last[process]
    return causes


def stated(text: str) -> str:
    """The exception, or the end of a process, that a line states; "" for any other line."""
    if match := RAISED.match(text):
        return match[1]
    died = DIED.match(text)
    return died[0].strip() if died else ""


def named(lines: Sequence[str]) -> list[str]:
    """The exceptions that the log names within a line."""
    matches = (NAMED.search(text) for _, text in fatal(lines))
    return [match[0] for match in matches if match and not CONSEQUENCE.search(match[0])]
