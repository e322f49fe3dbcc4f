"""The jars of Kafka: fetched once, held against pinned checksums, kept whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path, PurePosixPath

from workers.errors import UsageError

KAFKA_VERSION = "4.1.1"
#: One line a jar, in the order of the class path: its SHA-256 and its path in a Maven repository.
PINS = files("workers.local") / f"kafka-{KAFKA_VERSION}.sha256"
FETCHES_AT_ONCE = 8
FETCH_SECONDS = 60.0
#: Gives the bytes at each of some paths of the repository; a FetchError if it cannot.
Fetch = Callable[[Sequence[str]], list[bytes]]


class FetchError(UsageError):
    """Kafka is not on this machine yet and the repository is out of reach."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Kafka {KAFKA_VERSION} is not kept here yet and could not be fetched: connect once, or copy the "
            f"folder kafka-{KAFKA_VERSION} of uniroute's cache from a machine that has it ({problem})"
        )
        self.problem = problem


class WrongJarsError(UsageError):
    """What was fetched is not what this release of uniroute was tested with."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"what was fetched as Kafka {KAFKA_VERSION} is not what is pinned ({', '.join(names)}): try "
            "again, and if that does not help find out what stands between this machine and the repository"
        )
        self.names = names


def find_jars(cache: Path) -> list[Path]:
    """The jars of Kafka, from ``cache`` or fetched into it."""
    return keep_jars(cache / f"kafka-{KAFKA_VERSION}", pinned=read_pins(), fetch=fetch_jars)


def keep_jars(folder: Path, *, pinned: Mapping[str, str], fetch: Fetch) -> list[Path]:
    """The jars in ``folder``, which is filled at the first call; ``pinned`` gives the SHA-256 of each path.

    A WrongJarsError when what came is not what is pinned. A run that was interrupted leaves nothing that a
    later one would take for the whole.
    """
    names = [PurePosixPath(path).name for path in pinned]
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.draft-{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            jars = dict(zip(names, fetch(list(pinned)), strict=True))
            _check(jars, digests=pinned.values())
            for name, content in jars.items():
                (draft / name).write_bytes(content)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return [folder / name for name in names]


def read_pins() -> dict[str, str]:
    """The pinned SHA-256 of each jar by its path, in the order of the class path."""
    lines = PINS.read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def fetch_jars(paths: Sequence[str]) -> list[bytes]:
    """Fetch ``paths`` from the repository that jgo resolves from; a FetchError if one cannot be had."""
    try:
        import requests  # noqa: PLC0415  # with jgo half a second, needed once
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("a local Kafka needs the extra: pip install 'uniroute[local]'") from error

    # One session and no resolution: 2 s where a resolver that asks for each parent and checksum takes 40.
    with requests.Session() as session, ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:

        def fetch(path: str) -> bytes:
            answer = session.get(f"{MAVEN_CENTRAL_URL}/{path}", timeout=FETCH_SECONDS)
            answer.raise_for_status()
            return answer.content

        try:
            return list(pool.map(fetch, paths))
        except requests.RequestException as error:
            pool.shutdown(cancel_futures=True)
            raise FetchError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _check(jars: Mapping[str, bytes], *, digests: Iterable[str]) -> None:
    pairs = zip(jars.items(), digests, strict=True)
    wrong = [name for (name, content), digest in pairs if hashlib.sha256(content).hexdigest() != digest]
    if wrong:
        raise WrongJarsError(wrong)


def _publish(draft: Path, folder: Path) -> None:
    """Put the folder in its place at once; another process may have been faster with the same."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
