"""The archive of Kafka's classes: made once, used if Java accepts it, never in the way."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from workers.local.archive import Rehearse, choose_archive_flags
from workers.local.java import Java
from workers.local.processes import ServiceError


def make_java(folder: Path, *, exit_code: int, version: str = "25.0.2") -> Java:
    """A Java that accepts each archive, or none."""
    executable = folder / "java"
    executable.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    executable.chmod(0o755)
    return Java(executable=executable, version=version)


def rehearse(flags: Sequence[str]) -> None:
    """A broker whose Java writes the archive when it ends."""
    Path(flags[0].partition("=")[2]).write_bytes(b"classes")


def rehearse_in_vain(_flags: Sequence[str]) -> None:
    """A broker that does not start."""
    raise ServiceError("kafka", "ended before it answered", Path("kafka.log"))


def refuse(_flags: Sequence[str]) -> None:
    """No second rehearsal."""
    pytest.fail("it was rehearsed again")


def test_the_archive_is_made_once(tmp_path: Path) -> None:
    """The first call rehearses, later ones use what it wrote."""
    java = make_java(tmp_path, exit_code=0)

    first = choose_archive_flags(java, tmp_path, environment={}, rehearse=rehearse)
    second = choose_archive_flags(java, tmp_path, environment={}, rehearse=refuse)

    assert first == second
    assert first[0] == f"-XX:AOTCache={tmp_path / 'java-25.0.2.aot'}"
    assert (tmp_path / "java-25.0.2.aot").read_bytes() == b"classes"


@pytest.mark.parametrize(
    ("exit_code", "broken"), [(1, rehearse), (0, rehearse_in_vain)], ids=["unsound", "none"]
)
def test_kafka_starts_without(tmp_path: Path, exit_code: int, broken: Rehearse) -> None:
    """An archive that Java refuses, or that was not made, is done without and not tried again."""
    java = make_java(tmp_path, exit_code=exit_code)

    first = choose_archive_flags(java, tmp_path, environment={}, rehearse=broken)
    second = choose_archive_flags(java, tmp_path, environment={}, rehearse=refuse)

    assert first == second == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["java", "java-25.0.2.aot"]


def test_an_older_java_has_none(tmp_path: Path) -> None:
    """Java 17 has other flags, and starts without."""
    java = make_java(tmp_path, exit_code=0, version="17.0.15")

    assert choose_archive_flags(java, tmp_path, environment={}, rehearse=refuse) == ()
