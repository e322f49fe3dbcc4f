"""LLMs that were registered in another order are chosen alike, under every kind of policy there is."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from logged_traffic import FINGERPRINT, AxisEmbedder
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.costs import LatencyModel, LengthModel
from routing.decisions import Decisions, Prompts, decide
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers.policies import DEFAULT_POLICY, read_policy
from workers.policies.declarations import _KINDS
from workers.router import RoutingView, build_view
from workers.router.banks import Books
from workers.router.deciding import decide_batch
from workers.router.pacing import Pacers
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.lengths import Lengths
from workers.storage.llms import LLMs, Registration
from workers.storage.policies import Policies
from workers.storage.snapshots import load_state

if TYPE_CHECKING:
    from workers.local.postgres import Postgres

pytestmark = pytest.mark.stack

ViewOf = Callable[[Sequence[str]], RoutingView]
NAMES = ("a", "b", "c", "d")
PROMPTS = 64
CURVE = {"confidences": [-1.0, 0.0], "chances": [0.5, 1.0]}
#: One of each kind, and of those that draw.
BODIES: dict[str, dict[str, Any]] = {
    DEFAULT_POLICY: {"kind": "lagrangian", "error_per_usd": 100.0},
    "floor": {"kind": "quality-floor", "tolerance": 0.1},
    "upper": {"kind": "quality-floor", "tolerance": 0.1, "on": "upper"},
    "calibrated": {"kind": "quality-floor", "d": 0.1, "over": "traffic", "error_per_usd": 30.0},
    "same": {"kind": "equivalent-to", "reference": "c", "delta": 0.2},
    "daily": {"kind": "budget", "usd": 0.05},
    "threshold": {"kind": "threshold", "strong": "c", "weak": "b", "threshold": 0.1},
    "fixed": {"kind": "fixed", "llm": "b"},
    "canary": {"kind": "weighted", "weights": {"d": 1, "a": 1, "c": 2}},
    "cascade": {"kind": "cascade", "llms": ["d", "c"], "accept": 0.8, "calibration": CURVE},
    "best": {"kind": "performance-first", "reference_cost_usd": 0.005},
    "even": {"kind": "balanced", "reference_cost_usd": 0.005},
    "cheap": {"kind": "cost-first", "reference_cost_usd": 0.005},
    "curious": {"kind": "lagrangian", "error_per_usd": 10.0, "explore": {"share": 0.5, "band": 0.2}},
}
#: Few values, so that errors and costs tie: a and d are alike in all but the name.
RATES = dict(
    zip(
        NAMES,
        np.array([[0.2, 0.2, 0.4, 0.4], [0.2, 0.4, 0.4, 0.6], [0.1, 0.1, 0.1, 0.3], [0.2, 0.2, 0.4, 0.4]]),
        strict=True,
    )
)
USD = {"a": 1.0, "b": 1.0, "c": 10.0, "d": 1.0}


@pytest.fixture
def view_of(postgres: "Postgres", migrated_template: str) -> ViewOf:
    """Give what a router decides from where the LLMs were registered in the order that is asked for."""

    def make(order: Sequence[str]) -> RoutingView:
        name = f"test_{uuid.uuid4().hex}"
        engine = make_engine(postgres.create_database(name, template=migrated_template))
        try:
            return register(engine, order)
        finally:
            engine.dispose()
            postgres.drop_database(name)

    return make


def register(engine: Engine, order: Sequence[str]) -> RoutingView:
    """Fill an empty database, and view it."""
    with transaction(engine) as session:
        cluster_map = ClusterMap(
            centroids=np.eye(4, dtype=np.float32), sizes=(4,), temperature=8.0, fingerprint=FINGERPRINT
        )
        prior = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(4,))
        for name in order:
            price = Price(input_usd_per_mtok=USD[name], output_usd_per_mtok=USD[name])
            LLMs(session).register(
                Registration(
                    llm=LLM(name=name, price=price), base_url="http://127.0.0.1:1/v1", provider_model=name
                )
            )
        version = ClusterMaps(session).add(cluster_map, prior)
        ClusterMaps(session).activate(version)
        ErrorRates(session).publish(
            version,
            list(order),
            np.column_stack([RATES[name] for name in order]),
            reason="tests",
            deviations=np.full((4, 4), 0.05),
        )
        Lengths(session).publish(
            version,
            list(order),
            replies=np.full(4, 50.0),
            lengths=LengthModel(
                levels=np.full(4, 5.0),
                slopes=np.zeros(4),
                offsets=np.zeros((4, 4)),
                spreads=np.full(4, 0.5),
                smears=np.ones(4),
            ),
            latencies=LatencyModel(levels=np.full(4, -4.0), slopes=np.ones(4), spreads=np.full(4, 0.1)),
        )
        for name, body in BODIES.items():
            Policies(session).put(name, body)
    with transaction(engine) as session:
        view = build_view(load_state(session), open_embedder=lambda _: AxisEmbedder())
    assert view is not None
    return view


def decide_by(view: RoutingView, policy: str) -> Decisions:
    """Decide the same prompts by one policy, with the same draws."""
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(PROMPTS, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    asked = Prompts(embeddings=embeddings, input_tokens=rng.integers(1, 500, PROMPTS).astype(float))
    return decide_batch(
        policy,
        view.policies[policy].declaration,
        lambda chooser: decide(asked, view.snapshot, chooser, rng=rng),
        pacers=Pacers(Books()),
        now=datetime(2027, 1, 31, tzinfo=UTC),
    ).decisions


def test_no_order_of_registration_changes_a_decision(view_of: ViewOf) -> None:
    """Five orders, each kind of policy, 64 prompts whose LLMs often tie: equal choices with equal bits."""
    orders = [NAMES, *(np.random.default_rng(seed).permutation(NAMES).tolist() for seed in range(4))]

    first, *others = map(view_of, orders)

    assert {read_policy(name, body).kind for name, body in BODIES.items()} == set(_KINDS)
    for policy in BODIES:
        expected = decide_by(first, policy)
        assert (expected.llms >= 0).any(), policy
        for view in others:
            found = decide_by(view, policy)
            for field in ("llms", "propensities", "predicted_errors", "predicted_costs", "errors", "costs"):
                assert getattr(found, field).tobytes() == getattr(expected, field).tobytes(), policy


def test_ties_go_to_the_name_in_whatever_order(view_of: ViewOf) -> None:
    """The first and the last err and cost the same and less than the others do: it is always the first."""
    for order in (NAMES, NAMES[::-1]):
        chosen = decide_by(view_of(order), "cheap")

        assert {chosen.llm(row) for row in range(PROMPTS)} == {"a"}
