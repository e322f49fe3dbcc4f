"""Equal prompts are answered once, for callers who ask for it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from scripted_calls import Bench, Script, always, answer, as_message, body_of, dispatch, headers_of
from sqlalchemy import Engine

from workers.calls.errors import CallError
from workers.errors import WaitableError
from workers.executor import AnswerCache, DatabaseStore
from workers.storage.cached_answers import CachedAnswers
from workers.storage.engine import make_engine, transaction

KEY = b"k" * 32
CLAIMED = datetime(2030, 1, 1, tzinfo=UTC)


class Memory:
    """A store that is here, or away."""

    def __init__(self, *, away: bool = False) -> None:
        self.answers: dict[bytes, bytes | None] = {}
        self._away = away

    def find(self, key: bytes) -> bytes | None:
        """As the database's."""
        if self._away:
            raise WaitableError("Postgres", "it is away")
        return self.answers.get(key)

    def claim(self, key: bytes, *, seconds: float) -> datetime | None:
        """As the database's."""
        assert seconds > 0
        return CLAIMED if self.answers.setdefault(key, None) is None else None

    def keep(self, key: bytes, answer: bytes, *, seconds: float) -> None:
        """As the database's."""
        assert seconds > 0
        if self._away:
            raise WaitableError("Postgres", "it is away")
        self.answers[key] = answer

    def release(self, key: bytes, claim: datetime) -> None:
        """As the database's."""
        assert claim == CLAIMED
        self.answers.pop(key, None)


class SlowToClaim(Memory):
    """Tells when a claim begins, and goes on with it when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = threading.Event(), threading.Event()

    def claim(self, key: bytes, *, seconds: float) -> datetime | None:
        """As the database's."""
        self.begun.set()
        self.let.wait()
        return super().claim(key, seconds=seconds)


def bench(script: Script, *, away: bool = False) -> Bench:
    """An executor with a cache."""
    return Bench({"a": script}, cache=AnswerCache(Memory(away=away), claim_s=60.0))


@pytest.mark.parametrize("away", [False, True])
def test_equal_prompts_in_flight_are_called_for_once(*, away: bool) -> None:
    """Five at once make one call, also while the store is away; four replies cost nothing and say so."""
    made = bench(always(answer()), away=away)
    replies = made.handle(*(dispatch(prompt_id=f"p-{n}", cache_seconds="60") for n in range(5)))
    sources = [headers_of(reply)["cache"] for reply, _ in replies]

    assert len(made.caller.calls) == 1
    assert sorted(sources) == ["miss", "shared", "shared", "shared", "shared"]
    assert [headers_of(reply)["cost-usd"] for reply, _ in replies].count("0.0") == 4
    assert len({reply.value for reply, _ in replies}) == 1


def test_an_answer_is_kept() -> None:
    """A later equal prompt is a hit: no call, no cost."""
    made = bench(always(answer()))
    made.handle(dispatch(cache_seconds="60"))
    [[reply, usage]] = made.handle(dispatch(prompt_id="p-2", cache_seconds="60"))

    assert headers_of(reply)["cache"] == "hit"
    assert (headers_of(reply)["attempt"], body_of(usage)["cost_usd"]) == ("0", 0.0)
    assert len(made.caller.calls) == 1


def test_tenants_share_nothing_and_others_are_not_asked() -> None:
    """Another tenant's equal prompt is called for, and so is one that did not opt in."""
    made = bench(always(answer()))
    made.handle(dispatch(tenant="one", cache_seconds="60"))
    made.handle(dispatch(tenant="two", cache_seconds="60"), dispatch(tenant="one"))

    assert len(made.caller.calls) == 3


def test_a_failure_is_not_kept() -> None:
    """The next in line makes its own call."""
    made = bench(lambda call: (0.0, CallError("bad_request", "no") if call == 0 else answer()))
    replies = made.handle(*(dispatch(prompt_id=f"p-{n}", cache_seconds="60") for n in range(3)))

    assert sorted("choices" in body_of(reply) for reply, _ in replies) == [False, True, True]
    assert len(made.caller.calls) == 2


def test_whoever_is_cancelled_while_claiming_gives_the_claim_up() -> None:
    """The claim is made in a thread that goes on; nobody waits for an answer that is not being made."""
    store = SlowToClaim()

    async def run() -> None:
        cache = AnswerCache(store, claim_s=60.0)
        asking = asyncio.create_task(cache.answer(KEY, keep_s=60.0, make=never))
        await asyncio.to_thread(store.begun.wait)
        asking.cancel()
        await asyncio.sleep(0)
        store.let.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    async def never() -> bytes:
        raise AssertionError("it was cancelled before")

    asyncio.run(run())

    assert store.answers == {}


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with the tables."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


@pytest.mark.stack
def test_one_process_claims_an_answer(engine: Engine) -> None:
    """A second claim is refused until the first is kept, released or void; then the answer is found."""
    store = DatabaseStore(engine)

    first = store.claim(KEY, seconds=60.0)

    assert first is not None
    assert store.claim(KEY, seconds=60.0) is None

    store.release(KEY, first)
    void, second = store.claim(KEY, seconds=0.0), store.claim(KEY, seconds=60.0)

    assert void is not None
    assert second is not None

    store.release(KEY, void)

    assert store.claim(KEY, seconds=60.0) is None, "a claim that is void gives up nobody else's"
    assert store.find(KEY) is None

    store.keep(KEY, b"yes", seconds=60.0)

    assert (store.find(KEY), store.claim(KEY, seconds=60.0)) == (b"yes", None)


@pytest.mark.stack
def test_a_kept_answer_expires(engine: Engine) -> None:
    """Past its time it is not found, and may be made anew."""
    with transaction(engine) as session:
        answers = CachedAnswers(session)
        answers.claim(KEY, seconds=60.0)
        answers.keep(KEY, b"yes", seconds=-1.0)
    store = DatabaseStore(engine)

    assert store.find(KEY) is None
    assert store.claim(KEY, seconds=60.0)


#: A cascade whose scorer costs what the LLMs do: .03 USD a call.
JUDGED = json.dumps(
    {
        "accept_at": 0.8,
        "abstain_below": 0.05,
        "measure": "scorer",
        "confidences": [0.0, 1.0],
        "chances": [0.0, 1.0],
        "scorer": {
            "base_url": "http://scorer",
            "model": "s",
            "input_usd_per_mtok": 1_000.0,
            "output_usd_per_mtok": 1_000.0,
        },
    }
)


def test_a_scorer_of_a_kept_answer_is_a_call_like_any_other() -> None:
    """The log knows of it before it is made; it is the prompt's first try, and the one call of its bill."""
    made = bench(always(answer()))
    made.scripts = {**made.scripts, "scorer": always(answer("0.9"))}
    made.caller.scripts = made.scripts
    made.earlier = 2
    made.handle(dispatch(prompt_id="p-1", cache_seconds="60", cascade=JUDGED))
    [[reply, usage]] = made.handle(dispatch(prompt_id="p-2", cache_seconds="60", cascade=JUDGED))
    headers = headers_of(reply)

    assert [one[:3] for one in made.caller.calls] == [
        ("a", "p-1", 1),
        ("scorer", "p-1", 2),
        ("scorer", "p-2", 1),
    ]
    assert (headers["cache"], headers["repeated-calls"], headers["attempt"]) == ("hit", "2", "1")
    assert float(headers["cost-usd"]) == pytest.approx(0.03)
    assert (body_of(usage)["attempts"], body_of(usage)["cost_usd"]) == (1, pytest.approx(0.03))


def test_a_kept_answer_tells_of_calls_that_earlier_lives_began() -> None:
    """No call is made now; two were begun before, of .041 USD each as estimated, and may have been paid."""
    made = bench(always(answer()))
    made.handle(dispatch(prompt_id="p-1", cache_seconds="60"))
    made.earlier = 2
    [[reply, usage]] = made.handle(dispatch(prompt_id="p-2", cache_seconds="60"))
    headers = headers_of(reply)

    assert len(made.caller.calls) == 1
    assert (headers["cache"], headers["repeated-calls"], headers["attempt"]) == ("hit", "2", "0")
    assert float(headers["unsettled-usd"]) == body_of(usage)["unsettled_usd"] == pytest.approx(0.082)


def test_a_scorer_counts_the_calls_of_the_prompt() -> None:
    """What it is asked of a second LLM's answer is the fourth call, and not the first one again."""
    made = Bench({"a": always(answer()), "b": always(answer()), "scorer": always(answer("0.1"))})
    [[handed]] = made.handle(dispatch(fallbacks="b", cascade=JUDGED))
    made.handle(as_message(handed))

    assert [one[::2][:2] for one in made.caller.calls] == [("a", 1), ("scorer", 2), ("b", 1), ("scorer", 4)]
