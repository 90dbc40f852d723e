from components.report.formats import duration_text, percent_text, size_text
from components.report.stated_limits import StatedLimit, bounds, limits


def test_a_percentage_never_contradicts_the_bound_it_was_compared_with() -> None:
    assert percent_text(0.026) == "2.6 %"
    assert percent_text(-0.004) == "−0.4 %"
    assert percent_text(0.0) == "0.0 %"
    assert percent_text(None) == "—"
    assert percent_text(0.00996) == "1.0 %"
    assert percent_text(0.00996, (0.01,)) == "0.996 %"
    assert percent_text(0.0004) == "0.04 %"


def test_sizes_and_durations_are_never_rounded_to_nothing() -> None:
    assert [size_text(each) for each in (6_400_000_000, 269_060_552, 1_234_567, 20_000, None)] == [
        *("6,400 MB", "269 MB", "1.2 MB", "0.02 MB", "—"),
    ]
    assert [duration_text(each) for each in (0.31, 37.2, 119.6, 200, 7500)] == [
        *("0.3 s", "37 s", "2 min 0 s", "3 min 20 s", "2 h 5 min"),
    ]


def test_the_limits_are_read_from_the_policys_words() -> None:
    words = (
        "average drop: ship < 1 %, monitor from 1 % to under 3 %, reject over 5 %; math: gsm8k at most 2.5 %, else no"
    )
    assert limits(words) == (
        StatedLimit("ship", "< 1 %", 0.01),
        StatedLimit("monitor", "under 3 %", 0.03),
        StatedLimit("gsm8k", "at most 2.5 %", 0.025),
    )
    assert bounds(words, ["gsm8k", "mmlu"]) == {"average": (0.01, 0.03), "gsm8k": (0.025,), "mmlu": ()}
    assert limits("as the release manager likes") == ()
