"""What the learner makes of feedback, on the real Postgres."""

import base64
import string
import threading

import msgspec
import numpy as np
import pytest
from learner_bench import (
    MAP,
    PRIOR,
    count_rows,
    feedback,
    make_learner,
    make_registration,
    raw_feedback,
    read_class,
    read_counts,
    sign,
)
from sqlalchemy import Engine

from workers.decision_ids import DecisionSigner
from workers.errors import WaitableError
from workers.learner import (
    DUPLICATES,
)
from workers.messages import Message
from workers.storage import migrate
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs

pytestmark = pytest.mark.stack

ALPHABET = string.ascii_letters + string.digits + "-_"


def test_feedback_is_counted_in_its_decisions_cell(engine: Engine) -> None:
    """A score of 1/4 is 3/4 of an error, and one label, of the LLM and the cell that the token names."""
    records = make_learner(engine).handle(
        [
            feedback("f-1", decision_id=sign("a", cell=0), score=0.25),
            feedback("f-2", decision_id=sign("a", cell=0), score=1.0),
            feedback("f-3", decision_id=sign("b", cell=1), score=0.0),
        ]
    )
    counts = read_counts(engine, "a", "b")

    assert records == [[], [], []]
    assert counts.errors.tolist() == [[0.75, 0.0], [0.0, 1.0]]
    assert counts.labels.tolist() == [[2.0, 0.0], [0.0, 1.0]]


def test_feedback_under_a_soft_map_is_split(engine: Engine) -> None:
    """3/4 and 1/4 of one label and of its error; a correction moves both; a refold gives the same bits."""
    token = sign(shares=((0, 96), (1, 32)))
    learner = make_learner(engine)
    learner.handle([feedback("f-1", decision_id=token, score=0.0), feedback("f-2", score=0.5)])
    first = read_counts(engine, "a")
    again = feedback("f-3", timestamp_ms=1_800_000_001_000, decision_id=token, score=0.5, correction=True)
    learner.handle([again])
    counts = read_counts(engine, "a")
    with transaction(engine) as session:
        CellCounts(session).refold()

    assert first.errors[:, 0].tolist() == [0.75 + 0.5, 0.25]
    assert first.labels[:, 0].tolist() == [0.75 + 1.0, 0.25]
    assert counts.errors[:, 0].tolist() == [0.375 + 0.5, 0.125]
    assert counts.labels[:, 0].tolist() == [1.75, 0.25]
    assert np.array_equal(read_counts(engine, "a").errors, counts.errors)
    assert np.array_equal(read_counts(engine, "a").labels, counts.labels)


def test_feedback_sent_twice_counts_once(engine: Engine) -> None:
    """In one batch, over two batches and over two learners: one id is one label."""
    learner, other = make_learner(engine), make_learner(engine)
    first = feedback("f-1", score=0.5)
    batch = [first, first, feedback("f-2", score=0.0)]

    learner.handle(batch)
    learner.handle(batch)
    other.handle(list(reversed(batch)))
    counts = read_counts(engine, "a")

    assert counts.labels[0, 0] == 2.0
    assert counts.errors[0, 0] == 1.5
    assert count_rows(engine) == 2


def test_a_decision_scored_again_under_fresh_ids_counts_once(engine: Engine) -> None:
    """Its first score stays, whoever made up ids for more; another source counts; the rest is a metric."""
    token = sign()
    before = read_duplicates()
    first = [feedback(f"f-{number}", decision_id=token, score=0.0) for number in range(3)]
    second = [
        feedback("g-1", decision_id=token, score=0.0),
        feedback("g-2", decision_id=token, source="judge", score=1),
    ]
    records = [*make_learner(engine).handle(first), *make_learner(engine).handle(second)]
    counts = read_counts(engine, "a")

    assert records == [[]] * 5
    assert counts.labels[0, 0] == 2.0
    assert counts.errors[0, 0] == 1.0
    assert read_duplicates() - before == 3


@pytest.mark.parametrize("again", ["f-1", "f-2"])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_source_that_contradicts_itself_is_refused(engine: Engine, again: str, batches: int) -> None:
    """Another score of the same decision, under its id or another, is a dead letter; the first stays."""
    token = sign()
    learner = make_learner(engine)
    pieces = [feedback("f-1", decision_id=token, score=0.0), feedback(again, decision_id=token, score=1.0)]
    if batches == 1:
        first, second = learner.handle(pieces)
    else:
        [first], [second] = (learner.handle([piece]) for piece in pieces)

    assert first == []
    assert read_class(second) == "contradictory_feedback"
    assert read_counts(engine, "a").errors[0, 0] == 1.0


def test_an_id_of_other_feedback_is_refused(engine: Engine) -> None:
    """Two applications that number their feedback from 1 lose none in silence; what comes again may."""
    learner = make_learner(engine)
    ours = feedback("1", source="judge", decision_id=sign())
    theirs = feedback("1", source="human", decision_id=sign("b"))
    first, second = learner.handle([ours]), learner.handle([ours, theirs])

    assert (first, second[0]) == ([[]], [])
    assert read_class(second[1]) == "reused_feedback_id"
    assert read_counts(engine, "a", "b").labels[0].tolist() == [1.0, 0.0]


def test_a_correction_takes_the_place_of_a_score(engine: Engine) -> None:
    """Whatever comes again afterwards, and in whatever order: the latest correction counts, once."""
    token = sign()
    early, late = 1_800_000_001_000, 1_800_000_002_000
    given = feedback("f-1", decision_id=token, score=0.0)
    corrected = feedback("f-2", timestamp_ms=early, decision_id=token, score=0.5, correction=True)
    again = feedback("f-3", timestamp_ms=late, decision_id=token, score=0.75, correction=True)
    learner = make_learner(engine, clock=lambda: 1_800_000_010.0)
    seen = []
    for batch in ([given], [again], [corrected, given], [again]):
        assert learner.handle(batch) == [[]] * len(batch)
        counts = read_counts(engine, "a")
        seen.append((float(counts.errors[0, 0]), float(counts.labels[0, 0])))

    assert seen == [(1.0, 1.0), (0.25, 1.0), (0.25, 1.0), (0.25, 1.0)]


def test_feedback_on_an_old_decision_has_expired(engine: Engine) -> None:
    """Thirty days and a second after the decision it is refused; a second before it counts."""
    decided, days = 1_800_000_000, 30 * 24 * 3600
    late = make_learner(engine, clock=lambda: decided + days + 1.0)
    timely = make_learner(engine, clock=lambda: decided + days - 1.0)

    assert read_class(late.handle([feedback()])[0]) == "expired_feedback"
    assert timely.handle([feedback()]) == [[]]


def test_feedback_on_a_retired_namesake_is_not_counted_for_its_successor(engine: Engine) -> None:
    """A decision made before the name was taken over is about another LLM."""
    with transaction(engine) as session:
        LLMs(session).retire("a")
        LLMs(session).register(make_registration("a"))
        renewed = LLMs(session).renewals()["a"]
    assert renewed is not None
    before = sign(decided_at=int(renewed.timestamp()) - 5)
    after = sign(decided_at=int(renewed.timestamp()) + 5)
    learner = make_learner(engine, clock=renewed.timestamp)
    refused, counted = learner.handle(
        [feedback("f-1", decision_id=before), feedback("f-2", decision_id=after)]
    )

    assert read_class(refused) == "late_feedback"
    assert counted == []
    assert read_counts(engine, "a").labels[0, 0] == 1.0


def test_a_prompt_and_an_llm_are_placed_on_arrival(engine: Engine) -> None:
    """The prompt is embedded by the map's embedder and counted in its cell; twice is once."""
    learner = make_learner(engine)
    body = {"feedback_id": "l-1", "prompt": "second", "llm": "a", "score": 0.0, "source": "checker"}
    message = raw_feedback(msgspec.json.encode(body))

    assert learner.handle([message]) == [[]]
    assert learner.handle([message, feedback("f-1")]) == [[], []]
    assert read_counts(engine, "a").labels[:, 0].tolist() == [1.0, 1.0]


def test_a_prompt_and_an_llm_count_once_per_source(engine: Engine) -> None:
    """Whatever the ids: an equal score again adds nothing, another is a contradiction; a namesake counts."""
    learner = make_learner(engine)

    def label(feedback_id: str, score: float, source: str = "checker") -> Message:
        body = {"feedback_id": feedback_id, "prompt": "second", "llm": "a", "score": score, "source": source}
        return raw_feedback(msgspec.json.encode(body))

    first = learner.handle([label(f"l-{n}", 0.0) for n in range(20)] + [label("m", 0.0, "human")])
    [[second]] = learner.handle([label("n", 1.0)])

    assert first == [[]] * 21
    assert read_class([second]) == "contradictory_feedback"
    assert read_counts(engine, "a").labels[1, 0] == 2.0
    with transaction(engine) as session:
        LLMs(session).retire("a")
        LLMs(session).register(make_registration("a"))
        renewed = LLMs(session).renewals()["a"]
    assert renewed is not None
    later = make_learner(engine, clock=lambda: renewed.timestamp() + 5e7)
    assert later.handle([label("o", 1.0)]) == [[]]
    assert read_counts(engine, "a").labels[1, 0] == 1.0


@pytest.mark.parametrize("order", [(0.75, 0.5), (0.5, 0.75)])
@pytest.mark.parametrize("batches", [1, 2])
def test_of_corrections_at_one_time_the_lowest_holds(
    engine: Engine, order: tuple[float, float], batches: int
) -> None:
    """In one batch or over two, in whatever order they come."""
    learner, token = make_learner(engine), sign()
    learner.handle([feedback("f", decision_id=token, score=1.0)])
    pieces = [feedback(f"c-{s}", decision_id=token, score=s, correction=True) for s in order]
    for batch in [pieces] if batches == 1 else [[one] for one in pieces]:
        learner.handle(batch)

    assert read_counts(engine, "a").errors[0, 0] == 0.5


@pytest.mark.parametrize("prompt_id", ["p", "pp", "ppp"])
def test_a_decision_counts_once_however_its_id_is_spelled(engine: Engine, prompt_id: str) -> None:
    """Base64 has padding, two alphabets and bits that mean nothing; the signature covers none of them."""
    token = sign(prompt_id=prompt_id)
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    spellings = {token, base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    spellings |= {token[:-1] + last for last in ALPHABET if decodes_to(token[:-1] + last, raw)}
    make_learner(engine).handle(
        [feedback(f"f-{number}", decision_id=one) for number, one in enumerate(sorted(spellings))]
    )

    assert read_counts(engine, "a").labels[0, 0] == 1.0
    assert count_rows(engine) == 1


def test_a_learner_waits_for_the_tables(database_url: str) -> None:
    """Feedback that came before the first migration is not given up: the error is one to wait for."""
    engine = make_engine(database_url)
    try:
        with pytest.raises(WaitableError, match="uniroute db upgrade"):
            make_learner(engine).handle([feedback()])
        migrate.upgrade(database_url)
        with transaction(engine) as session:
            LLMs(session).register(make_registration("a"))
            ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
        make_learner(engine).handle([feedback()])

        assert read_counts(engine, "a").labels[0, 0] == 1.0
    finally:
        engine.dispose()


def test_a_learner_waits_for_its_permission(engine: Engine) -> None:
    """A grant that was lost for a while costs no feedback."""
    user = make_engine(f"{engine.url.render_as_string(hide_password=False)}&options=-c%20role%3Dpg_monitor")
    try:
        with pytest.raises(WaitableError, match="permission denied"):
            make_learner(user).handle([feedback()])
    finally:
        user.dispose()


def test_learners_side_by_side_count_each_piece_once(engine: Engine) -> None:
    """Four learners get the same 200 pieces in different orders, as after rebalances, at the same time."""
    pieces = [feedback(f"f-{number}", decision_id=sign("ab"[number % 2])) for number in range(200)]
    orders = [np.random.default_rng(seed).permutation(200) for seed in range(4)]
    threads = [
        threading.Thread(target=make_learner(engine).handle, args=([pieces[index] for index in order],))
        for order in orders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read_counts(engine, "a", "b").labels[0].tolist() == [100.0, 100.0]
    assert count_rows(engine) == 200


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        (feedback(decision_id=sign()[:-10]), "forged_decision"),
        (feedback(decision_id=sign()[:20]), "malformed_decision"),
        (feedback(decision_id=""), "malformed_decision"),
        (feedback(decision_id="not base64!"), "malformed_decision"),
        (feedback(decision_id="ä"), "malformed_decision"),
        (
            feedback(decision_id=sign(signer=DecisionSigner({0: b"another key 0123"}, current=0))),
            "forged_decision",
        ),
        (
            feedback(decision_id=sign(signer=DecisionSigner({7: b"0123456789abcdef"}, current=7))),
            "malformed_decision",
        ),
        (feedback(decision_id=sign(map_version="0" * 16)), "unknown_map"),
        (feedback(decision_id=sign("nobody")), "unknown_llm"),
        (feedback(score=1.01), "bad_feedback"),
        (feedback(score=-0.01), "bad_feedback"),
        (feedback(score="good"), "invalid_body"),
        (feedback(score=None), "invalid_body"),
        (feedback(""), "bad_feedback"),
        (feedback("f" * 201), "bad_feedback"),
        (feedback("f\0"), "bad_feedback"),
        (feedback(source=""), "bad_feedback"),
        (feedback(timestamp_ms=2**62), "bad_feedback"),
        (feedback(timestamp_ms=-(2**62)), "bad_feedback"),
        (raw_feedback(None), "empty"),
        (raw_feedback(b"{"), "not_json"),
        (raw_feedback(b"\xff"), "not_json"),
        (raw_feedback(b"[]"), "invalid_body"),
        (raw_feedback(b"{}"), "invalid_body"),
        (raw_feedback(b'{"score": NaN}'), "not_json"),
        (raw_feedback(b" " * 20_000), "too_large"),
        (raw_feedback(b"[" * 16_000), "invalid_body"),
    ],
)
def test_what_cannot_be_counted_is_a_dead_letter(engine: Engine, message: Message, error_class: str) -> None:
    """By class, with the original value; its neighbours in the batch are counted."""
    first, bad, last = make_learner(engine).handle([feedback("g-1"), message, feedback("g-2")])

    assert (first, last) == ([], [])
    assert read_class(bad) == error_class
    assert bad[0].value == message.value
    assert read_counts(engine, "a").labels[0, 0] == 2.0


def test_a_truncated_token_is_refused_wherever_it_is_cut(engine: Engine) -> None:
    """Each of its prefixes is a dead letter, and nothing is counted."""
    token = sign()
    batch = [feedback(f"f-{cut}", decision_id=token[:cut]) for cut in range(len(token) - 1)]

    classes = {read_class(records) for records in make_learner(engine).handle(batch)}

    assert classes == {"forged_decision", "malformed_decision"}
    assert count_rows(engine) == 0


def test_feedback_on_a_retired_llm_still_counts(engine: Engine) -> None:
    """Its decisions were made, and it may come back."""
    with transaction(engine) as session:
        LLMs(session).retire("a")

    assert make_learner(engine).handle([feedback()]) == [[]]
    assert read_counts(engine, "a").labels[0, 0] == 1.0


def decodes_to(token: str, raw: bytes) -> bool:
    """Tell whether a token is another spelling of the same bytes."""
    return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_") == raw


def read_duplicates() -> float:
    """Give the metric of what was left out."""
    (metric,) = DUPLICATES.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))
