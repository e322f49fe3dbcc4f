"""Fault scenarios: read strictly, drawn deterministically."""

import json
from pathlib import Path

import pytest

from workers.errors import UsageError
from workers.local.simulated.faults import (
    EVERY_FAULT,
    Call,
    Hang,
    Latency,
    RateLimit,
    Scenario,
    ServerError,
    fault_kind,
    parse_scenario,
    plan_call,
    read_scenario,
)

KINDS = (
    "latency", "rate_limit", "server_error", "hang", "reset", "truncated_json", "wrong_content_type",
    "missing_usage", "huge_body", "trickle",
)  # fmt: skip
TOML = """
seed = 3

[[fault]]
kind = "rate_limit"
llms = ["sim-novice"]
probability = 0.25
retry_after_s = 1.5
from_s = 10
until_s = 20

[[fault]]
kind = "server_error"
status = 503
"""


def call(**changes: object) -> Call:
    """A first call, at second 0, to sim-novice."""
    fields: dict[str, object] = {
        "llm": "sim-novice", "prompt_id": "p", "attempt": 0, "at_s": 0.0, "earlier_calls": 0,
    }  # fmt: skip
    return Call(**{**fields, **changes})  # type: ignore[arg-type]


def test_toml_and_json_read_alike(tmp_path: Path) -> None:
    """The same scenario in either notation is the same value."""
    toml, plain = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text(TOML)
    limited = {"kind": "rate_limit", "llms": ["sim-novice"], "probability": 0.25, "retry_after_s": 1.5}
    faults = [{**limited, "from_s": 10, "until_s": 20}, {"kind": "server_error", "status": 503}]
    plain.write_text(json.dumps({"seed": 3, "fault": faults}))

    assert read_scenario(toml) == read_scenario(plain)
    assert read_scenario(toml).fault == (
        RateLimit(llms=("sim-novice",), probability=0.25, retry_after_s=1.5, from_s=10.0, until_s=20.0),
        ServerError(status=503),
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"faults": []}, "faults"),
        ({"fault": [{"kind": "explode"}]}, "explode"),
        ({"fault": [{}]}, "kind"),
        ({"fault": [{"kind": "hang", "seconds": 3}]}, "seconds"),
        ({"fault": [{"kind": "reset", "hang_s": 3}]}, "hang_s"),
        ({"fault": [{"kind": "hang", "probability": 1.5}]}, "<= 1"),
        ({"fault": [{"kind": "hang", "hang_s": -1}]}, ">= 0"),
        ({"fault": [{"kind": "server_error", "status": 404}]}, ">= 500"),
        ({"fault": [{"kind": "hang", "from_call": 1.5}]}, "int"),
        ({"fault": [{"kind": "hang", "llms": "sim-novice"}]}, "array"),
        ({"fault": [{"kind": "hang", "llms": ["sim-nobody"]}]}, "sim-nobody"),
        ({"seed": "x"}, "seed"),
        ([], "object"),
    ],
)
def test_anything_unknown_is_an_error(content: object, sentence: str) -> None:
    """A misspelt key never passes for a scenario without faults; the error names it and the source."""
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_scenario(content, source="faults.toml", llms=["sim-novice"])

    assert "faults.toml" in str(caught.value)


@pytest.mark.parametrize("text", ["[[fault]", "\x00"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    """Bad TOML and a missing file name the file."""
    path = tmp_path / "bad.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"bad\.toml"):
        read_scenario(path)
    with pytest.raises(UsageError, match=r"absent\.json"):
        read_scenario(tmp_path / "absent.json")


def test_the_packaged_scenario_has_every_fault() -> None:
    """All ten kinds, the rate limit with and without Retry-After, and four calls of five left alone."""
    scenario = read_scenario(EVERY_FAULT)
    calls = [call(prompt_id=str(number)) for number in range(2_000)]
    struck = {fault_kind(plan_call(scenario, one).fault) for one in calls}
    limits = [fault.retry_after_s for fault in scenario.fault if isinstance(fault, RateLimit)]

    assert {fault_kind(fault) for fault in scenario.fault} == set(KINDS)
    assert struck == {*KINDS, None} - {"latency"}
    assert [seconds is None for seconds in limits] == [False, True]
    assert sum(plan_call(scenario, one).fault is None for one in calls) >= 1_600


def test_no_faults_by_default() -> None:
    """An empty scenario leaves a call as it is."""
    plan = plan_call(Scenario(), call())

    assert (plan.latency_scale, plan.extra_s, plan.fault) == (1.0, 0.0, None)


def test_windows_are_half_open() -> None:
    """From second 10 up to but not at 20; calls 5 and 6 of an LLM, counted from 0."""
    timed = Scenario(fault=(Hang(from_s=10.0, until_s=20.0),))
    counted = Scenario(fault=(Hang(from_call=5, until_call=7),))

    assert [plan_call(timed, call(at_s=s)).fault is not None for s in (9.9, 10.0, 19.9, 20.0)] == [
        False, True, True, False,
    ]  # fmt: skip
    struck = [n for n in range(12) if plan_call(counted, call(earlier_calls=n)).fault is not None]
    assert struck == [5, 6]


def test_only_the_named_llms_have_a_fault() -> None:
    """Others are left alone."""
    scenario = Scenario(fault=(Hang(llms=("sim-novice",)),))

    assert plan_call(scenario, call()).fault is not None
    assert plan_call(scenario, call(llm="sim-clerk")).fault is None


def test_a_probability_is_kept() -> None:
    """Of 10,000 calls a fault of .2 strikes 2,000, within 5 deviations of 40."""
    scenario = Scenario(fault=(Hang(probability=0.2),))
    struck = sum(plan_call(scenario, call(prompt_id=str(i))).fault is not None for i in range(10_000))

    assert abs(struck - 2_000) < 200


def test_draws_depend_on_the_attempt_and_the_seed_alone() -> None:
    """The same attempt meets the same fault, whenever it comes; a retry and another seed draw anew."""
    scenario = Scenario(fault=(Hang(probability=0.5),))
    other = Scenario(seed=1, fault=(Hang(probability=0.5),))

    def faults(which: Scenario, **changes: object) -> list[bool]:
        return [plan_call(which, call(prompt_id=str(i), **changes)).fault is not None for i in range(200)]

    assert faults(scenario) == faults(scenario, at_s=99.0, earlier_calls=7)
    assert faults(scenario) != faults(scenario, attempt=1)
    assert faults(scenario) != faults(other)


def test_the_first_that_strikes_decides_and_latencies_add_up() -> None:
    """Two latencies of 2 and 3 make 6; of a hang and an error the one that stands first happens."""
    scenario = Scenario(fault=(Latency(scale=2.0), Hang(), ServerError(), Latency(scale=3.0, extra_s=0.5)))
    plan = plan_call(scenario, call())

    assert (plan.latency_scale, plan.extra_s, fault_kind(plan.fault)) == (6.0, 0.5, "hang")
