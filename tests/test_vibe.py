"""The page for blind votes: what it shows and hides, and how its votes are read back; once in a real Chromium."""

import json
import random
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.replies import ChatReplies
from quantgate.components.judging.vibe_page import VibeKey, vibe_page
from quantgate.components.judging.votes import Votes, counted, read_votes
from tests.support.command import quantgate
from tests.support.judge_server import echo, judge_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--allow-file-access-from-files", "--virtual-time-budget=5000"),
)
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><!-- & \u2028 '\""
# The frame presses keys as a person would, reloads the page and votes on.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><pre id="seen"></pre><iframe src="page/vibe.html"></iframe><script>
const frame = document.querySelector("iframe"), seen = {loads: 0};
const press = key => frame.contentDocument.dispatchEvent(
  new frame.contentWindow.KeyboardEvent("keydown", {key, bubbles: true}));
frame.onload = () => {
  const page = frame.contentDocument, words = id => page.getElementById(id).textContent;
  seen.loads += 1;
  if (seen.loads === 1) {
    seen.title = page.title;
    seen.images = page.images.length;
    seen.text = page.body.innerText;
    press("a"); press("b"); press("t");
    seen.before = words("state");
    frame.contentWindow.location.reload();
    return;
  }
  seen.after = words("state");
  press("x"); press("ArrowLeft"); press("q");
  page.querySelector('[data-vote="B"]').click();
  seen.done = words("state");
  seen.stored = JSON.parse(frame.contentWindow.localStorage.getItem("quantgate-vibe-" + %s));
  seen.requests = frame.contentWindow.performance.getEntriesByType("resource").length;
  frame.contentWindow.URL.createObjectURL = blob => { blob.text().then(text => {
    seen.file = text;
    document.getElementById("seen").textContent = JSON.stringify(seen);
  }); return "#"; };
  press("d");
};
</script>"""

QUESTIONS = tuple(ChatQuestion(f"q{n}", "math" if n % 2 else "code", (f"prompt {n}",)) for n in range(40))


def replies(name: str) -> dict[str, ChatReplies]:
    return {question.id: ChatReplies((f"{name} on {question.id}",)) for question in QUESTIONS}


BOTH = {"base": replies("left"), "int8": replies("right")}


def made(seed: int = 1, both: dict[str, dict[str, ChatReplies]] = BOTH) -> tuple[str, VibeKey]:
    page, key, _ = vibe_page(QUESTIONS, both, seed)
    return page, key


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_names_no_model_and_both_sides_hold_the_variant_at_times() -> None:
    page, key = made()
    assert "int8" not in page
    assert "base" not in data_of(page)["questions"][0]
    shown = data_of(page)["questions"]
    assert len(shown) == 40
    for entry, question in zip(key.entries, shown, strict=True):
        variant, baseline = ("a", "b") if entry.variant_is == "A" else ("b", "a")
        assert question["turns"][0][variant] == f"right on {entry.question}"
        assert question["turns"][0][baseline] == f"left on {entry.question}"
    sides = [entry.variant_is for entry in key.entries]
    assert 8 <= sides.count("A") <= 32
    assert [entry.question for entry in key.entries] != [question.id for question in QUESTIONS]


def test_a_seed_gives_one_page_and_another_seed_another() -> None:
    assert made(1) == made(1)
    assert made(1)[1].entries != made(2)[1].entries


def test_a_reply_cannot_leave_its_place_and_the_page_loads_nothing() -> None:
    both = {name: dict.fromkeys(by_question, ChatReplies((HOSTILE,))) for name, by_question in BOTH.items()}
    page, _ = made(both=both)
    assert data_of(page)["questions"][0]["turns"][0]["a"] == HOSTILE
    assert "<img" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|https?://|@import|url\(""", page)
    assert "default-src 'none'" in page


def test_a_question_without_a_reply_is_left_out_and_named_in_the_key() -> None:
    failed = BOTH["int8"] | {"q3": ChatReplies(failure="too long")}
    page, key, failures = vibe_page(QUESTIONS, {"base": BOTH["base"], "int8": failed}, 1)
    assert (len(data_of(page)["questions"]), key.missing) == (39, {"q3": "math"})
    assert [(one.model, one.question) for one in failures] == [("int8", "q3")]
    everything_failed = dict.fromkeys(failed, ChatReplies(failure="no server"))
    with pytest.raises(PrerequisiteError, match="No question has replies of both models"):
        vibe_page(QUESTIONS, {"base": BOTH["base"], "int8": everything_failed}, 1)


def voted(key: VibeKey, choose: dict[str, str], voter: str = "") -> Votes:
    """Votes by question: `variant`, `baseline`, `tie` or `bad`."""
    sides = {entry.question: entry.variant_is for entry in key.entries}
    other = {"A": "B", "B": "A"}
    numbers = {entry.question: number for number, entry in enumerate(key.entries)}
    choices = {
        numbers[question]: {"variant": sides[question], "baseline": other[sides[question]]}.get(choice, choice)
        for question, choice in choose.items()
    }
    return Votes.model_validate({"form": 1, "page": key.page, "voter": voter, "votes": choices})


def test_votes_count_for_the_model_behind_the_letter() -> None:
    _, key = made()
    one = voted(key, {"q0": "variant", "q1": "baseline", "q2": "tie", "q3": "bad"})
    found = counted([("one.json", one)], key)
    assert [found.shares[f"q{n}"] for n in range(5)] == [1.0, 0.0, 0.5, 0.5, None]
    assert (found.both_bad, found.votes, found.voters) == (1, 4, 1)


def test_several_people_share_a_question_and_nobody_votes_twice() -> None:
    _, key = made()
    ann, ben = voted(key, {"q0": "variant", "q1": "tie"}, "Ann"), voted(key, {"q0": "baseline"}, "Ben")
    found = counted([("ann.json", ann), ("ben.json", ben)], key)
    assert (found.shares["q0"], found.shares["q1"], found.voters) == (0.5, 0.5, 2)
    with pytest.raises(PrerequisiteError, match=r"b\.json and a\.json are votes of the same person"):
        counted([("a.json", ann), ("b.json", voted(key, {"q3": "tie"}, "ann "))], key)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"page": "0" * 64}, "has votes on the page 0000"),
        ({"votes": {"40": "A"}}, "a vote on question 40, and the page has 40"),
        ({"votes": {"0": "C"}}, "has no valid votes"),
        ({"form": 2}, "has no valid votes"),
    ],
)
def test_votes_that_do_not_fit_the_key_are_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    _, key = made()
    file = tmp_path / "votes.json"
    file.write_text(json.dumps({"form": 1, "page": key.page, "voter": "", "votes": {"39": "A"}} | change))
    with pytest.raises(PrerequisiteError, match=what):
        read_votes(file, key)


def prompts(folder: Path, count: int, text: str = "prompt") -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps({'prompt': f'{text} {n}', 'category': 'chat'})}\n" for n in range(count)))
    return file


def test_the_command_makes_a_page_and_its_key_and_reads_votes_into_the_arena(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with judge_server(echo(2), "one") as one, judge_server(echo(3), "two") as two:
        arguments = ("vibe", str(prompts(tmp_path, 4)), "--baseline", one.url, "--variant", f"int8={two.url}")
        first = quantgate(*arguments, "--out", str(out))
        assert first.returncode == 0, first.stderr
        assert "4 prompts show only a large difference" in first.stdout
        page = (out / "page" / "vibe.html").read_text()
        assert quantgate(*arguments, "--out", str(out)).returncode == 0
        assert (out / "page" / "vibe.html").read_text() == page  # the same sides: votes still fit
        assert (len(one.asked), len(two.asked)) == (4, 4)
    assert (out / "key.json").stat().st_mode & 0o077 == 0
    key = VibeKey.read(out / "key.json")
    votes = voted(key, dict.fromkeys([entry.question for entry in key.entries], "variant"))
    votes.write(tmp_path / "votes.json")
    read = quantgate("vibe", "--out", str(out), "--votes", str(tmp_path / "votes.json"), "--json")
    (row,) = json.loads(read.stdout)["standings"]
    assert (row["variant"], row["wins"], row["losses"], row["win_rate"]) == ("int8", 4, 0, 1.0)
    assert row["lower"] == pytest.approx(0.05**0.25, abs=1e-6)
    assert "int8 is not shown to be better or worse than baseline" in (out / "vibe-results.md").read_text()


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    assert "Name a file of prompts and both models" in quantgate("vibe").stderr
    done = quantgate("vibe", "--votes", str(tmp_path / "none.json"), "--out", str(tmp_path))
    assert (done.returncode, "There is no key" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: `apt-get install chromium` brings one")
def test_in_a_browser_votes_by_key_are_kept_over_a_reload_downloaded_and_read(tmp_path: Path) -> None:
    questions = [ChatQuestion(f"q{n}", "chat", (f"prompt {n} {HOSTILE}",)) for n in range(4)]
    both = {
        name: {one.id: ChatReplies((f"{side} {HOSTILE}",)) for one in questions}
        for name, side in (("b", "l"), ("v", "r"))
    }
    page, key, _ = vibe_page(questions, both, random.Random(3).randrange(99))
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "vibe.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME % json.dumps(key.page), encoding="utf-8")
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="seen">(.+?)</pre>', ran.stdout, re.DOTALL)
    assert found, f"chromium showed nothing (exit {ran.returncode}): {ran.stderr[-2000:]}"
    seen = json.loads(unescape(found[1]))
    assert (seen["title"], seen["images"], seen["requests"]) == ("Which reply is better?", 0, 0)
    assert "onerror" in seen["text"]
    assert seen["before"] == seen["after"] == "Prompt 4 of 4; 3 voted."
    assert seen["done"].startswith("Prompt 3 of 4; 4 voted. All done")
    (tmp_path / "votes.json").write_text(seen["file"])
    votes = read_votes(tmp_path / "votes.json", key)
    assert votes.votes == {0: "A", 1: "B", 2: "B", 3: "bad"}
    assert counted([("votes.json", votes)], key).both_bad == 1
