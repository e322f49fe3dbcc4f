"""Logged decisions for tests: a router in this process, on a real Postgres, over four cells and two LLMs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers.decision_ids import DecisionSigner
from workers.messages import DecisionRecord, Message
from workers.router import Router, RoutingView, build_view
from workers.router.pacing import Pacers
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.llms import LLMs, Registration
from workers.storage.policies import Policies
from workers.storage.snapshots import load_state

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
FINGERPRINT = Fingerprint(name="axes", dimension=4, precision="f32", max_length=8, checksum="a")
#: Prompts of 8 bytes, 2 tokens, and 256 tokens of answer: ``large`` costs .00258 USD, ``small`` .000258.
LARGE_USD, SMALL_USD = 10.0, 1.0
#: What the two err in each of the four cells: ``small`` errs .0, .1, .3 and .6 more.
RATES = np.array([[0.1, 0.1], [0.1, 0.2], [0.1, 0.4], [0.1, 0.7]])


class AxisEmbedder:
    """Gives the unit vector of the axis that a text's first letter names."""

    fingerprint = FINGERPRINT

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the rows, in order."""
        return np.eye(4, dtype=np.float32)[[int(text[0]) for text in texts]].reshape(len(texts), 4)


@dataclass(slots=True)
class Office:
    """A database with two LLMs, and a router that logs what it decides from it."""

    engine: Engine
    #: Lambda 100: ``large``, dearer by .232 of error, wins in cells 2 and 3.
    sent: int = 0

    @classmethod
    def open(cls, engine: Engine, *, error_per_usd: float = 100.0) -> "Office":
        """Fill an empty, migrated database."""
        cluster_map = ClusterMap(
            centroids=np.eye(4, dtype=np.float32),
            sizes=(4,),
            temperature=float("inf"),
            fingerprint=FINGERPRINT,
        )
        prior = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(4,))
        with transaction(engine) as session:
            for name, usd in (("large", LARGE_USD), ("small", SMALL_USD)):
                price = Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd)
                LLMs(session).register(
                    Registration(
                        llm=LLM(name=name, price=price), base_url="http://127.0.0.1:1/v1", provider_model=name
                    )
                )
            version = ClusterMaps(session).add(cluster_map, prior)
            ClusterMaps(session).activate(version)
            ErrorRates(session).publish(version, ["large", "small"], RATES, reason="tests")
            Policies(session).put("default", {"kind": "lagrangian", "error_per_usd": error_per_usd})
        return cls(engine)

    def view(self) -> RoutingView:
        """Give what a router decides from now."""
        with transaction(self.engine) as session:
            view = build_view(load_state(session), open_embedder=lambda _: AxisEmbedder())
        assert view is not None
        return view

    def route(
        self,
        texts: Sequence[str],
        *headers: tuple[str, bytes],
        now: Callable[[], datetime] = lambda: NOW,
        model: str = "auto",
        pacers: Pacers | None = None,
    ) -> list[DecisionRecord]:
        """Route one prompt per text and give the decisions as they are logged."""
        view = self.view()
        router = Router(
            view=lambda: view,
            signer=DecisionSigner({0: b"0123456789abcdef"}, current=0),
            settings=Settings(),
            rng=np.random.default_rng(self.sent),
            now=now,
            pacers=pacers,
        )
        batch = [
            Message(
                topic="uniroute.prompts",
                partition=0,
                offset=self.sent + row,
                timestamp_ms=0,
                key=f"p-{self.sent + row}".encode(),
                value=msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": text}]}),
                headers=(("uniroute-reply-to", b"uniroute.replies.app"), *headers),
            )
            for row, text in enumerate(texts)
        ]
        self.sent += len(texts)
        return [
            msgspec.json.decode(record.value or b"", type=DecisionRecord)
            for records in router.handle(batch)
            for record in records
            if record.topic == "uniroute.decisions"
        ]

    def traffic(self, rounds: int = 5) -> list[DecisionRecord]:
        """Route the four kinds of prompt, one round after the other, a second apart."""
        return [
            record
            for turn in range(rounds)
            for record in self.route(
                ["0 apples", "1 apples", "2 apples", "3 apples"],
                now=lambda at=turn: NOW + timedelta(seconds=at),
            )
        ]
