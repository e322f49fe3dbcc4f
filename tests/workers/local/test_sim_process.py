"""The server as a process of its own: it tells its address, ends when told, and outlives nobody."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from workers.errors import UsageError
from workers.local.simulated.process import ServerProcess, outcome_arguments

MODULE = "workers.local.simulated"


def fetch(url: str) -> dict[str, object]:
    """GET a JSON object."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 (loopback)
        content: dict[str, object] = json.load(response)
        return content


def test_it_serves_until_stopped() -> None:
    """Leaving the block ends the process, and the port is closed."""
    with ServerProcess.start(outcome_arguments(outcomes=None, seed=4)) as server:
        listed = fetch(f"{server.base_url}/models")["data"]
        connections = psutil.Process(server.pid).net_connections()

    assert isinstance(listed, list)
    assert len(listed) == 8
    assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert not psutil.pid_exists(server.pid)
    with pytest.raises(urllib.error.URLError):
        fetch(f"{server.base_url}/models")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_calls_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    """A hanging call does not hold it up; the exit code is 0."""
    scenario = tmp_path / "hang.toml"
    scenario.write_text('[[fault]]\nkind = "hang"\nhang_s = 600\n')
    child = subprocess.Popen(  # noqa: S603 (this interpreter and this package)
        [sys.executable, "-m", MODULE, "--faults", str(scenario)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child, child.stdout:
        ready = json.loads(child.stdout.readline())
        body = b'{"model": "sim-novice", "messages": [{"role": "user", "content": "hi"}]}'
        request = urllib.request.Request(f"{ready['base_url']}/chat/completions", data=body)  # noqa: S310
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=0.3)  # noqa: S310 (loopback)
        child.send_signal(number)

        assert child.wait(10) == 0
        assert ready["pid"] == child.pid


def test_it_ends_with_its_parent() -> None:
    """A parent killed by SIGKILL takes the server with it."""
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-m', {MODULE!r}], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)  # noqa: S603
    assert parent.stdout is not None
    with parent, parent.stdout:
        server = psutil.Process(json.loads(parent.stdout.readline())["pid"])
        os.kill(parent.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs([server], timeout=20)

    assert not alive
    assert len(gone) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--outcomes", "/nowhere"], "/nowhere is not a folder"),
        (["--faults", "/nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: list[str], sentence: str) -> None:
    """The caller gets a UsageError with the server's own words, and no traceback."""
    with pytest.raises(UsageError, match=sentence) as caught:
        ServerProcess.start(arguments)

    assert "Traceback" not in str(caught.value)


def test_a_port_in_use_is_refused() -> None:
    """The system's sentence says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="in use"):
            ServerProcess.start(["--port", str(port)])


def test_faults_of_unknown_llms_are_refused(tmp_path: Path) -> None:
    """A scenario is checked against the source's own LLMs before anything is served."""
    scenario = tmp_path / "faults.json"
    scenario.write_text('{"fault": [{"kind": "hang", "llms": ["sim-nobody"]}]}')

    with pytest.raises(UsageError, match=r"sim-nobody.*sim-abacus"):
        ServerProcess.start(outcome_arguments(outcomes=None, faults=scenario))


@pytest.mark.outcomes
def test_recorded_outcomes_are_served(outcomes_dir: Path) -> None:
    """A folder's LLMs are the server's models."""
    with ServerProcess.start(outcome_arguments(outcomes=outcomes_dir / "llmrouter9")) as server:
        listed = fetch(f"{server.base_url}/models")["data"]

    assert isinstance(listed, list)
    assert len(listed) == 9
