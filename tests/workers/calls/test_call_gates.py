"""Who may call an LLM when: limits per minute, lanes, concurrency and the breaker, in warped time."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from warped_time import run_warped

from workers.calls.errors import CallError
from workers.calls.gates import Gate, GateClosedError, Limits

SERVER_ERROR = CallError("server", "the endpoint answered 500")


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def make_gate(*, most: int = 1_000, limits: Limits = Limits(), share: float = 1.0) -> Gate:  # noqa: B008
    """A gate on the running loop's clock."""
    gate = Gate(most=most, clock=asyncio.get_running_loop().time)
    gate.limit(limits, share=share)
    return gate


async def call(gate: Gate, *, seconds: float = 0.0, lane: str = "interactive") -> float:
    """Make a call and tell when it went."""
    admission = await gate.admit(lane)
    at = now()
    await asyncio.sleep(seconds)
    gate.leave(admission, None)
    return at


def busiest_minute(times: Sequence[float]) -> int:
    """The most calls in any 60 s."""
    ordered = sorted(times)
    return max(sum(at <= other < at + 60.0 for other in ordered) for at in ordered)


def test_a_limit_of_600_holds_in_every_minute_with_four_executors_that_change_places() -> None:
    """Four saturated executors, one of which dies and one that comes: never over 600, at least 570."""

    async def run() -> list[float]:
        limits = Limits(requests_per_minute=600)
        times: list[float] = []
        shares = {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}
        gates = {name: make_gate(limits=limits, share=share) for name, share in shares.items()}

        async def saturate(name: str) -> None:
            while True:
                times.append(await call(gates[name]))

        tasks = {name: asyncio.create_task(saturate(name)) for name in gates}
        await asyncio.sleep(100.0)
        tasks.pop("d").cancel()
        gates["a"].limit(limits, share=0.5)  # takes over in the middle of d's minute
        await asyncio.sleep(40.0)
        gates["a"].limit(limits, share=0.25)
        gates["e"] = make_gate(limits=limits, share=0.25)  # a new process
        tasks["e"] = asyncio.create_task(saturate("e"))
        await asyncio.sleep(120.0)
        for task in tasks.values():
            task.cancel()
        return times

    times = run_warped(run())

    assert busiest_minute(times) <= 600
    assert all(sum(start <= at < start + 60.0 for at in times) >= 570 for start in range(0, 200, 10))


def test_a_pause_earns_no_more_than_a_small_burst() -> None:
    """After an idle hour 600 calls at once still take their minute: 12 go at once, the rest at the pace."""

    async def run() -> list[float]:
        gate = make_gate(limits=Limits(requests_per_minute=600))
        await asyncio.sleep(3_600.0)
        return await asyncio.gather(*(call(gate) for _ in range(600)))

    times = run_warped(run())

    assert sum(at == 3_600.0 for at in times) == 13
    assert busiest_minute(times) <= 600


def test_tokens_are_reserved_and_settled() -> None:
    """At 6,000 a minute (96 a second), calls that reserve 960 and use 96 go each second, not each ten."""

    async def run() -> list[float]:
        gate = make_gate(limits=Limits(tokens_per_minute=6_000))
        times = []
        for _ in range(50):
            admission = await gate.admit(tokens=960.0)
            times.append(now())
            gate.leave(admission, None, tokens=96.0)
        return times

    times = run_warped(run())

    assert times[-1] - times[10] == pytest.approx(39.0, abs=0.01)


def test_who_owns_no_partition_calls_nobody() -> None:
    """A share of nothing lets nothing go, until it is something."""

    async def run() -> float:
        limits = Limits(requests_per_minute=600)
        gate = make_gate(limits=limits, share=0.0)
        waiting = asyncio.create_task(call(gate))
        await asyncio.sleep(500.0)
        gate.limit(limits, share=0.5)
        return await waiting

    assert run_warped(run()) == pytest.approx(500.0, abs=2.0)


def test_lanes_take_turns_and_none_starves() -> None:
    """Of 200 turns with all lanes waiting, 160, 30 and 10 are theirs: 16, 3 and 1 in twenty."""

    async def run() -> Counter[str]:
        gate = make_gate(most=1)
        order: list[str] = []

        async def wait(lane: str) -> None:
            await call(gate, seconds=1.0, lane=lane)
            order.append(lane)

        async with asyncio.TaskGroup() as group:
            for lane in ("probe", "batch", "interactive"):
                for _ in range(300):
                    group.create_task(wait(lane))
        return Counter(order[1:201])

    assert run_warped(run()) == {"interactive": 160, "batch": 30, "probe": 10}


def test_a_breaker_opens_probes_and_closes() -> None:
    """Ten failures open it; one probe goes after two seconds, fails, and after four more one succeeds."""

    async def run() -> list[tuple[float, str]]:
        told: list[tuple[float, str]] = []
        gate = Gate(
            most=100,
            clock=asyncio.get_running_loop().time,
            on_state=lambda state, _why: told.append((now(), state)),
        )
        for _ in range(10):
            gate.leave(await gate.admit(), SERVER_ERROR)
        waiting = [asyncio.create_task(gate.admit()) for _ in range(5)]
        await asyncio.sleep(3.0)
        (probe,) = [task for task in waiting if task.done()]
        gate.leave(probe.result(), SERVER_ERROR)
        await asyncio.sleep(5.0)
        (second,) = [task for task in waiting if task.done() and task is not probe]
        gate.leave(second.result(), None)
        await asyncio.gather(*waiting)
        return told

    told = run_warped(run())

    assert told == [
        (0.0, "open"),
        (2.0, "half_open"),
        (3.0, "open"),
        (7.0, "half_open"),
        (8.0, "closed"),
    ]


def test_calls_from_before_a_breaker_opened_say_nothing_of_it() -> None:
    """Neither an answer to one closes it, nor does giving one up let a second probe go."""

    async def run() -> tuple[str, bool, str]:
        gate = make_gate()
        old, older = await gate.admit(), await gate.admit()
        for _ in range(10):
            gate.leave(await gate.admit(), SERVER_ERROR)
        await asyncio.sleep(2.0)
        probe = await gate.admit()
        gate.leave(old, None)
        gate.abandon(older)
        state = gate.state
        second = asyncio.create_task(gate.admit())
        await asyncio.sleep(0)
        waits = not second.done()
        gate.leave(probe, None)
        await second
        return state, waits, gate.state

    assert run_warped(run()) == ("half_open", True, "closed")


def test_errors_of_prompts_do_not_open_a_breaker() -> None:
    """A hundred bodies that the endpoint refuses say nothing against it."""

    async def run() -> str:
        gate = make_gate()
        for _ in range(100):
            gate.leave(await gate.admit(), CallError("bad_request", "no"))
        return gate.state

    assert run_warped(run()) == "closed"


def test_an_endpoint_that_fails_now_and_then_is_not_given_up() -> None:
    """One call in three fails for a thousand calls: the breaker stays closed."""
    rng = random.Random(0)

    async def run() -> set[str]:
        gate, states = make_gate(), set()
        for _ in range(1_000):
            gate.leave(await gate.admit(), SERVER_ERROR if rng.random() < 1 / 3 else None)
            states.add(gate.state)
            await asyncio.sleep(0.1)
        return states

    assert run_warped(run()) == {"closed"}


def test_who_has_another_llm_does_not_wait_for_one_that_fails() -> None:
    """The impatient are told at once when the breaker opens, and while it is open."""

    async def run() -> list[str]:
        gate = make_gate(most=10)
        admissions = [await gate.admit() for _ in range(10)]
        queued = asyncio.create_task(gate.admit(patient=False))
        await asyncio.sleep(0)
        for admission in admissions:
            gate.leave(admission, SERVER_ERROR)
        causes = []
        for attempt in (queued, gate.admit(patient=False)):
            try:
                await attempt
            except GateClosedError as error:
                causes.append(error.cause)
        return causes

    # The last place that was freed before the breaker opened went to the queued one.
    assert run_warped(run())[-1] == "server"


def test_a_cancelled_probe_frees_its_place() -> None:
    """A probe that nobody hears of again does not keep the breaker open for ever."""

    async def run() -> bool:
        gate = make_gate()
        for _ in range(10):
            gate.leave(await gate.admit(), SERVER_ERROR)
        await asyncio.sleep(2.0)
        gate.abandon(await gate.admit())
        gate.leave(await gate.admit(), None)
        return gate.state == "closed"

    assert run_warped(run())


def test_concurrency_halves_on_refusal_and_grows_again() -> None:
    """An endpoint that bears 50 at once, asked by 200: the bound settles near it; all are answered."""

    async def run() -> tuple[int, int]:
        gate = make_gate(most=200)
        at_once = refusals = 0
        late: list[int] = []

        async def ask() -> None:
            nonlocal at_once, refusals
            while True:
                admission = await gate.admit()
                at_once += 1
                await asyncio.sleep(1.0)
                full = at_once > 50
                late.append(at_once)
                at_once -= 1
                refusals += full
                gate.leave(admission, CallError("rate_limit", "full") if full else None)
                if not full:
                    return

        await asyncio.gather(*(ask() for _ in range(3_000)))
        return max(late[-500:]), refusals

    most_late, refusals = run_warped(run())

    assert most_late <= 60
    assert refusals < 900


def test_a_retry_after_holds_everybody_back() -> None:
    """One call that is told to wait five seconds speaks for all of them."""

    async def run() -> float:
        gate = make_gate()
        gate.leave(await gate.admit(), CallError("rate_limit", "wait", retry_after_s=5.0))
        return await call(gate)

    assert run_warped(run()) == pytest.approx(5.0)


def test_no_refusal_holds_calls_back_for_ever() -> None:
    """A provider that asks for a year is asked again after ten minutes."""

    async def run() -> float:
        gate = make_gate()
        gate.leave(await gate.admit(), CallError("rate_limit", "wait", retry_after_s=3e7))
        return await call(gate)

    assert run_warped(run()) == pytest.approx(600.0)


def test_a_turn_given_to_who_has_left_is_not_lost() -> None:
    """Cancelled in the instant of its turn, a call gives its place back."""

    async def run() -> int:
        gate = make_gate(most=1)
        first = await gate.admit()
        waiting = [asyncio.create_task(gate.admit()) for _ in range(3)]
        await asyncio.sleep(0)
        gate.leave(first, None)  # the turn of the first that waits
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        gate.leave(await waiting[1], None)
        gate.leave(await waiting[2], None)
        return gate.in_flight

    assert run_warped(run()) == 0
