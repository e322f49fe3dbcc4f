"""The built-in pool: deterministic, as good as it says, and worth routing over."""

import subprocess
import sys

import numpy as np
import pytest

from routing.costs import call_cost
from routing.errors import UnknownLLMError
from workers.errors import UsageError
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.llms import LATE_LLM, POOL, WORSE_LLM, SimulatedLLM, Skill, answer_task, is_right
from workers.local.simulated.tasks import draw_task


def test_a_skill_falls_with_difficulty_within_its_bounds() -> None:
    """.9 less .1 a step: .9 at 1, .5 at 5; never below .02 nor above .99."""
    assert Skill(easy=0.9, drop=0.1).probability(1) == pytest.approx(0.9)
    assert Skill(easy=0.9, drop=0.1).probability(5) == pytest.approx(0.5)
    assert Skill(easy=0.1, drop=0.1).probability(5) == 0.02
    assert Skill(easy=1.0, drop=0.0).probability(1) == 0.99


@pytest.mark.parametrize("llm", POOL, ids=lambda llm: llm.name)
def test_an_llm_is_right_as_often_as_its_skills_say(llm: SimulatedLLM) -> None:
    """The share of right answers on 4,000 tasks meets the mean probability within 4 deviations (.032)."""
    tasks = [draw_task(11, index) for index in range(4_000)]
    expected = np.mean([llm.probability(task.family, task.difficulty) for task in tasks])
    share = np.mean([is_right(llm, task, seed=11) for task in tasks])

    assert share == pytest.approx(expected, abs=0.032)


def test_replies_are_graded_as_drawn() -> None:
    """Every reply of every LLM gets from the grader exactly the score that the truth says."""
    source = BuiltinSource(seed=2)
    prompts = source.prompts("traffic", 400)
    truth = source.truth([prompt.prompt_id for prompt in prompts])

    for row, prompt in enumerate(prompts):
        for column, llm in enumerate(source.llms):
            outcome = source.answer(llm.name, prompt.prompt_id, prompt.text)
            assert source.grade(prompt.prompt_id, outcome.text) == outcome.score == truth.scores[row, column]
            assert outcome.right == (outcome.score == 1.0)
            cost = call_cost(
                llm.price, input_tokens=outcome.input_tokens, output_tokens=outcome.output_tokens
            )
            assert cost == truth.costs_usd[row, column] > 0
            assert outcome.latency_s > 0


def test_another_process_gives_the_same_outcomes() -> None:
    """A replay in another process, with another hash seed, answers word for word the same."""
    code = (
        "from workers.local.simulated.llms import POOL, answer_task\n"
        "from workers.local.simulated.tasks import draw_task\n"
        "print([answer_task(llm, draw_task(1, i), seed=1) for llm in POOL for i in range(20)])"
    )
    other = subprocess.run(  # noqa: S603 (this interpreter)
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )

    here = [answer_task(llm, draw_task(1, index), seed=1) for llm in POOL for index in range(20)]
    assert other.stdout.strip() == str(here)


def test_seeds_differ() -> None:
    """Another seed has other prompts and another luck."""
    one, two = BuiltinSource(seed=0), BuiltinSource(seed=1)

    assert one.prompts("train", 5) != two.prompts("train", 5)
    assert not set(one.prompts("train", 50)) & set(two.prompts("train", 50))


def test_splits_share_no_prompt() -> None:
    """Map, labels and traffic come from different prompts."""
    source = BuiltinSource()
    ids = [
        {prompt.prompt_id for prompt in source.prompts(split, 300)} for split in ("train", "label", "traffic")
    ]

    assert len(set().union(*ids)) == 900


def test_llms_are_marked_as_simulated() -> None:
    """Every LLM says that it is simulated, in its flag and in its name; names are unique and in order."""
    llms = BuiltinSource().llms

    assert all(llm.simulated and llm.name.startswith("sim-") for llm in llms)
    assert [llm.name for llm in llms] == sorted({llm.name for llm in POOL})
    assert BuiltinSource().late_llm == LATE_LLM in {llm.name for llm in llms}


def test_an_unknown_prompt_gets_a_generic_answer() -> None:
    """No id, a foreign id: an answer with tokens, a score of 0 and the word simulated."""
    source = BuiltinSource()

    for prompt_id in (None, "somebody-else", "builtin-77-1"):
        outcome = source.answer("sim-novice", prompt_id, "How are you?")
        assert outcome.score == 0.0
        assert outcome.input_tokens == 3  # 12 characters
        assert "simulated" in outcome.text
    assert source.grade("somebody-else", "42") == 0.0
    with pytest.raises(KeyError):
        source.truth(["somebody-else"])


def test_an_unknown_llm_is_an_error() -> None:
    """Its name and the names there are stand in the error."""
    with pytest.raises(UnknownLLMError, match=r"sim-nobody.*sim-abacus"):
        BuiltinSource().answer("sim-nobody", None, "hi")


def test_a_prompt_is_found_by_its_text() -> None:
    """A caller that sends no id is answered all the same."""
    source = BuiltinSource()
    prompt = source.prompts("traffic", 10)[9]

    assert source.find(prompt.text) == prompt.prompt_id
    assert source.find("never drawn") is None
    assert source.knows(prompt.prompt_id)
    assert not source.knows("builtin-1-1")


def test_a_split_has_an_end() -> None:
    """More prompts than a split has are refused, and so is a negative number."""
    with pytest.raises(UsageError, match="1000000"):
        BuiltinSource().prompts("train", 1_000_001)
    with pytest.raises(UsageError, match="-1"):
        BuiltinSource().prompts("train", -1)


def test_the_pool_is_worth_routing_over() -> None:
    """One best LLM, a cheapest one at most half as good a deal, and an oracle far above the best."""
    source = BuiltinSource()
    truth = source.truth([prompt.prompt_id for prompt in source.prompts("traffic", 2_000)])
    quality, cost = truth.scores.mean(axis=0), truth.costs_usd.mean(axis=0)
    names = [llm.name for llm in source.llms]

    assert names[int(quality.argmax())] == "sim-maestro" == names[int(cost.argmax())]
    assert names[int(cost.argmin())] == "sim-novice"
    assert quality.max() - quality[names.index("sim-novice")] > 0.3
    assert truth.scores.max(axis=1).mean() > quality.max() + 0.1
    assert cost.max() > 10 * np.median(cost)


def test_the_worse_llm_is_worse_than_all_and_no_bargain() -> None:
    """On 400 tasks it is right less often than any of the pool, and dearer than most of them."""
    source = BuiltinSource(llms=(*POOL, WORSE_LLM))
    truth = source.truth([prompt.prompt_id for prompt in source.prompts("label", 400)])
    column = [llm.name for llm in source.llms].index(WORSE_LLM.name)

    assert source.late_llm == WORSE_LLM.name
    assert truth.scores.mean(axis=0).argmin() == column
    assert (truth.costs_usd.sum(axis=0) < truth.costs_usd[:, column].sum()).sum() >= len(POOL) - 2
