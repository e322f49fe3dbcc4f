"""``uniroute up``, ``status`` and ``down``."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workers.cli.stack import open_stack
from workers.local.folders import cache_folder, data_folder
from workers.local.processes import wait_gone


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a stack that is kept, which is stopped whatever happens."""
    with tempfile.TemporaryDirectory(prefix="uniroute-") as made:
        yield Path(made) / "it's kept"
        open_stack(Path(made) / "it's kept").stop()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, as a person does."""
    program = [
        sys.executable,
        "-c",
        "from workers.cli.console import run; from workers.cli.stack import command; run(command)",
    ]
    return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603


@pytest.mark.stack
def test_up_status_down(folder: Path) -> None:
    """``up`` says what to export, again without harm; ``status`` that both answer; ``down`` ends both."""
    where = ["--folder", str(folder)]

    before = run("status", *where)
    up = run("up", *where)
    again = run("up", *where, "--json")
    status = run("status", *where, "--json")
    processes = [psutil.Process(server["pid"]) for server in json.loads(status.stdout)["servers"]]
    down = run("down", *where, "--json")
    after = run("down", *where)

    environment = json.loads(again.stdout)["environment"]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    servers = json.loads(status.stdout)["servers"]
    assert before.returncode == 3
    assert before.stdout.splitlines()[0] == "kafka: down"
    assert [done.returncode for done in (up, again, status, down, after)] == [0, 0, 0, 0, 0]
    assert list(environment) == ["UNIROUTE_KAFKA_BOOTSTRAP", "UNIROUTE_DATABASE_URL", "UNIROUTE_SIGNING_KEY"]
    assert len(environment["UNIROUTE_SIGNING_KEY"]) >= 32
    assert up.stdout.splitlines() == exports
    assert up.stderr.splitlines()[-1] == f"To stop them: uniroute down --folder {shlex.quote(str(folder))}"
    assert [server["address"] for server in servers] == list(environment.values())[:2]
    assert json.loads(down.stdout)["stopped"] == ["kafka", "postgres"]
    assert wait_gone(processes, timeout=0.0)
    assert after.stderr == f"Nothing was up in {folder}.\n"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """``up`` in a place where no folder can be names the folder and the fix, and ends with exit code 2."""
    (tmp_path / "file").touch()

    done = run("up", "--folder", str(tmp_path / "file" / "stack"))

    assert done.returncode == 2
    assert re.search(r"file/stack cannot hold the data: .*; choose another --folder$", done.stderr.strip())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("home", "expected"), [("/data", "/data/uniroute"), ("relative", "{home}/.local/share/uniroute")]
)
def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, home: str, expected: str) -> None:
    """The default folder follows ``XDG_DATA_HOME`` if that is an absolute path, as its specification says."""
    monkeypatch.setenv("XDG_DATA_HOME", home)

    assert data_folder() == Path(expected.format(home=Path.home()))


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``XDG_CACHE_HOME`` what can be made again is kept in the home folder."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    assert cache_folder() == Path("~/.cache/uniroute").expanduser()
