"""The jars of Kafka: kept whole and as pinned, or not at all."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from workers.local.jars import Fetch, FetchError, WrongJarsError, fetch_jars, keep_jars, read_pins

CONTENTS = {"org/a/1/a-1.jar": b"first", "org/b/2/b-2.jar": b"second"}
PINS = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENTS.items()}


def fetch(paths: Sequence[str]) -> list[bytes]:
    """A repository that has what is pinned."""
    return [CONTENTS[path] for path in paths]


def fetch_nothing(_paths: Sequence[str]) -> list[bytes]:
    """A repository that is out of reach."""
    raise FetchError("no route")


def fetch_other(paths: Sequence[str]) -> list[bytes]:
    """A repository whose second jar somebody has changed."""
    return [CONTENTS[paths[0]], b"forged"]


def fetch_until_interrupted(_paths: Sequence[str]) -> list[bytes]:
    """A person who loses patience."""
    raise KeyboardInterrupt


def test_jars_are_fetched_once(tmp_path: Path) -> None:
    """The first call fetches, in the order of the class path; later ones need no repository."""
    folder = tmp_path / "kafka"

    first = keep_jars(folder, pinned=PINS, fetch=fetch)
    second = keep_jars(folder, pinned=PINS, fetch=fetch_nothing)

    assert first == second == [folder / "a-1.jar", folder / "b-2.jar"]
    assert [jar.read_bytes() for jar in first] == [b"first", b"second"]


def test_a_changed_jar_is_refused(tmp_path: Path) -> None:
    """A jar that is not the pinned one is refused by name, and nothing is kept."""
    with pytest.raises(WrongJarsError, match=r"is not what is pinned \(b-2\.jar\)") as caught:
        keep_jars(tmp_path / "kafka", pinned=PINS, fetch=fetch_other)

    assert caught.value.names == ["b-2.jar"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "error"), [(fetch_nothing, FetchError), (fetch_until_interrupted, KeyboardInterrupt)]
)
def test_an_interrupted_fetch_leaves_nothing(
    tmp_path: Path, broken: Fetch, error: type[BaseException]
) -> None:
    """What an interrupted run leaves is not taken for the whole: the next one begins anew."""
    with pytest.raises(error):
        keep_jars(tmp_path / "kafka", pinned=PINS, fetch=broken)

    assert list(tmp_path.iterdir()) == []
    assert len(keep_jars(tmp_path / "kafka", pinned=PINS, fetch=fetch)) == 2


def test_a_faster_process_wins(tmp_path: Path) -> None:
    """Of two processes that fetch at once the second finds the first's jars in place and uses them."""
    folder = tmp_path / "kafka"

    def fetch_while_another_does(paths: Sequence[str]) -> list[bytes]:
        folder.mkdir()
        (folder / "a-1.jar").write_bytes(b"the other's")
        return fetch(paths)

    jars = keep_jars(folder, pinned=PINS, fetch=fetch_while_another_does)

    assert jars[0].read_bytes() == b"the other's"
    assert list(tmp_path.iterdir()) == [folder]


def test_an_unreachable_repository_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the error says what to do instead of showing the client's own."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    with pytest.raises(FetchError, match=r"^Kafka .* could not be fetched: connect once, or copy the folder"):
        fetch_jars(["org/a/1/a-1.jar"])


def test_each_jar_is_pinned() -> None:
    """The file of pins names Kafka itself and its logger, each jar once and with a whole checksum."""
    pins = read_pins()
    names = [path.rpartition("/")[2] for path in pins]

    assert "kafka_2.13-4.1.1.jar" in names
    assert "slf4j-simple-1.7.36.jar" in names
    assert len(set(names)) == len(names)
    assert {len(digest) for digest in pins.values()} == {64}
