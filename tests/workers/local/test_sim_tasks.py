"""The generator of checkable prompts."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.graders import grade
from workers.local.simulated.families import FAMILIES
from workers.local.simulated.tasks import DIFFICULTIES, Task, draw_task, find_task

WRAPPINGS = (
    "{}",
    "The answer is {}.",
    "Let me see.\n\nFinal answer: {}",
    "**{}**",
    "So the answer is **{}**.",
)


def check_answers(task: Task) -> None:
    """Assert that the checker takes the right answer, refuses the wrong ones, however they are wrapped."""
    for wrapping in WRAPPINGS:
        if task.checker == "json" and "*" in wrapping:
            continue
        assert grade(task, wrapping.format(task.answer)) == 1.0, (task, wrapping)
        for wrong in task.wrong:
            assert grade(task, wrapping.format(wrong)) == 0.0, (task, wrapping, wrong)


def test_every_checker_tells_right_from_wrong_on_thousands_of_tasks() -> None:
    """No right answer is refused and no wrong one accepted, in any family, at any difficulty."""
    tasks = [draw_task(seed, index) for seed in (0, 1, 2) for index in range(1_500)]

    for task in tasks:
        check_answers(task)
    assert {task.family for task in tasks} == set(FAMILIES)
    assert {(task.family, task.difficulty) for task in tasks} == {
        (f, d) for f in FAMILIES for d in DIFFICULTIES
    }


@settings(max_examples=300)
@given(seed=st.integers(0, 10**9), index=st.integers(0, 10**9))
def test_any_seed_gives_a_gradable_task(seed: int, index: int) -> None:
    """Whatever the seed, a task has wrong answers and a checker that knows them."""
    task = draw_task(seed, index)

    assert task.wrong
    check_answers(task)


def test_families_and_difficulties_are_drawn_evenly() -> None:
    """Of 6,000 tasks each of 12 families gets 500 and each of 5 difficulties 1,200, within 5 deviations."""
    tasks = [draw_task(7, index) for index in range(6_000)]

    families = Counter(task.family for task in tasks)
    difficulties = Counter(task.difficulty for task in tasks)
    assert len(families) == 12
    assert all(abs(count - 500) < 5 * 21.5 for count in families.values()), families
    assert all(abs(count - 1_200) < 5 * 31 for count in difficulties.values()), difficulties


def test_prompts_of_a_family_vary() -> None:
    """Of 2,000 prompts at least 95 % are unlike any other, so that nothing can be learned by heart."""
    prompts = [draw_task(0, index).prompt for index in range(2_000)]

    assert len(set(prompts)) >= 1_900


def test_a_task_is_found_again_by_its_id() -> None:
    """An id alone gives the task, and ids of another seed or of no task give none."""
    task = draw_task(3, 41)

    assert task.prompt_id == "builtin-3-41"
    assert find_task("builtin-3-41", seed=3) == task
    assert find_task("builtin-3-41", seed=4) is None
    assert find_task("builtin-3-x", seed=3) is None
    assert find_task("", seed=3) is None


def test_another_process_draws_the_same_tasks() -> None:
    """Neither hash randomisation nor the process changes a task."""
    code = "from workers.local.simulated.tasks import draw_task\nprint([draw_task(5, i) for i in range(60)])"
    other = subprocess.run(  # noqa: S603 (this interpreter)
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"}
    )

    assert other.stdout.strip() == str([draw_task(5, index) for index in range(60)])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_harder_is_longer_or_larger(family: str) -> None:
    """The hardest prompts of a family are on average no shorter than its easiest."""
    tasks = [task for task in (draw_task(0, index) for index in range(3_000)) if task.family == family]

    def mean_length(difficulty: int) -> float:
        lengths = [len(task.prompt) for task in tasks if task.difficulty == difficulty]
        return sum(lengths) / len(lengths)

    assert mean_length(5) >= mean_length(1)
