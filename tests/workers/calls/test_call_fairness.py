"""Tenants that wait for one LLM share its turns by their weights."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warped_time import run_warped

from workers.calls.fairness import FairQueue
from workers.calls.gates import Gate, Limits


def test_shares_by_hand() -> None:
    """Weights 2 and 1: a starts at 0, .5, 1, 1.5, b at 0, 1; of two that start together the first come."""
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push(f"a{number}", flow="a", weight=2.0)
    for number in range(2):
        queue.push(f"b{number}", flow="b", weight=1.0)

    assert [queue.pop() for _ in range(6)] == ["a0", "b0", "a1", "a2", "b1", "a3"]


def test_a_flow_that_was_idle_claims_nothing() -> None:
    """One comes after a was served ten times: they take turns from then on, with no ten to make up."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(20):
        queue.push("a", flow="a")
    for _ in range(10):
        queue.pop()
    for _ in range(10):
        queue.push("b", flow="b")

    assert Counter(queue.pop() for _ in range(10)) == {"a": 5, "b": 5}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 10.0))))
def test_each_flow_keeps_its_order(pushed: list[tuple[str, float]]) -> None:
    """Whatever the weights, nothing is lost and nobody is overtaken by what came later of its own."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, (flow, weight) in enumerate(pushed):
        queue.push((flow, number), flow=flow, weight=weight)
    popped = [queue.pop() for _ in range(len(queue))]

    assert sorted(popped, key=lambda one: one[1]) == [(flow, n) for n, (flow, _) in enumerate(pushed)]
    for flow in "abc":
        numbers = [number for name, number in popped if name == flow]
        assert numbers == sorted(numbers)


def test_a_tenant_of_weight_3_gets_three_turns_of_four() -> None:
    """Both have 100 calls waiting, the lighter one's first, under 60 a minute: of the first 40 it gets 10."""

    async def run() -> list[str]:
        gate = Gate(most=100, clock=asyncio.get_running_loop().time)
        gate.limit(Limits(requests_per_minute=60), share=1.0)
        went: list[str] = []

        async def call(tenant: str, weight: float) -> None:
            gate.leave(await gate.admit(tenant=tenant, weight=weight), None)
            went.append(tenant)

        for _ in range(10):
            await gate.admit()  # what may go at once after a pause
        await asyncio.gather(
            *(call("light", 1.0) for _ in range(100)), *(call("heavy", 3.0) for _ in range(100))
        )
        return went

    assert Counter(run_warped(run())[:40]) == pytest.approx({"heavy": 30, "light": 10}, abs=1)
