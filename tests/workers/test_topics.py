"""What is promised of topics: legal names, and contents that every worker can read."""

import subprocess
import sys
import uuid

import pytest
from kafka import KafkaProducer

from workers.settings import Settings
from workers.topics import Topics, core_topics, create_topics, describe_topics, is_legal_topic

#: Reads one record of a topic in a process that has only the codecs of the base install.
_READ_ONE = """
import sys
for codec in ("zstandard", "lz4", "snappy"):
    sys.modules[codec] = None
from kafka import KafkaConsumer
consumer = KafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], auto_offset_reset="earliest")
print(next(iter(consumer)).value.decode())
"""


@pytest.mark.parametrize(
    ("llm", "topic"),
    [
        ("gpt-5.small_v2", "uniroute.dispatch.gpt-5.small_v2"),
        ("openai/gpt-5", "uniroute.dispatch.openai-gpt-5.3ada7776"),
    ],
)
def test_an_llm_s_topic_is_legal_and_readable(llm: str, topic: str) -> None:
    """A legal name is kept; another is slugged and told apart by eight digits of its SHA-256."""
    named = Topics().dispatch(llm)

    assert is_legal_topic(named)
    assert named == topic


def test_llms_whose_slugs_are_alike_have_topics_of_their_own() -> None:
    """``a/b``, ``a:b`` and ``a-b`` do not share a topic, nor do long names with a common beginning."""
    names = {Topics().dispatch(llm) for llm in ("a/b", "a:b", "a-b", "é" * 100, "é" * 101)}

    assert len(names) == 5
    assert all(is_legal_topic(name) for name in names)


@pytest.mark.stack
def test_topics_are_created_once(kafka_bootstrap: str) -> None:
    """A second call finds nothing to do, and what was declared is there."""
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap, topic_prefix=f"{uuid.uuid4().hex[:8]}.", partitions=3
    )

    first = create_topics(settings, core_topics(settings))
    second = create_topics(settings, core_topics(settings))

    assert sorted(first) == sorted(spec.name for spec in core_topics(settings))
    assert list(second) == []
    assert describe_topics(settings)[Topics(settings.topic_prefix).prompts] == 3


@pytest.mark.stack
def test_prompts_may_be_compressed_with_any_codec(kafka_bootstrap: str) -> None:
    """A worker without zstd reads what a caller compressed with it: one such record stalls nobody."""
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap, topic_prefix=f"{uuid.uuid4().hex[:8]}.", partitions=1
    )
    create_topics(settings, core_topics(settings))
    topic = Topics(settings.topic_prefix).prompts
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type="zstd")
    producer.send(topic, value=b"packed " * 100).get(timeout=30)
    producer.close()

    read = subprocess.run(  # noqa: S603  # this interpreter and our own lines
        [sys.executable, "-W", "ignore", "-c", _READ_ONE, kafka_bootstrap, topic],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert read.stdout.strip() == ("packed " * 100).strip(), read.stderr
