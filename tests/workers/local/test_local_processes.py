"""Services: how a process of the local stack is started, found again, and ended with its owner."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from workers.errors import UsageError
from workers.local import guard
from workers.local.processes import Command, ProcessRecord, Service, ServiceError, find_process, wait_gone

SLEEPER = (sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)")
DEAF_PROGRAM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('awake', flush=True)
time.sleep(600)
"""
DEAF = (sys.executable, "-c", DEAF_PROGRAM)
FAMILY_PROGRAM = """
import subprocess, sys
print('awake', flush=True)
subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE).wait()
"""
FAMILY = (sys.executable, "-c", FAMILY_PROGRAM)
#: Starts the sleeper in the folder that is named, says its pid, and waits to be ended.
STARTER = """
import sys
from pathlib import Path
from workers.local.processes import Command, Service
folder, outlive, *arguments = sys.argv[1:]
service = Service("sleeper", Path(folder), outlive=outlive == "outlive")
service.start(Command(arguments=arguments, folder=Path(folder), environment={}))
print(service.pid, flush=True)
sys.stdin.read()
"""
#: More than any of these takes, on a machine that is busy with other things.
LONG_SECONDS = 30.0

StartSleeper = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartSleeper]:
    """Start a command as a service and wait until it is awake; ended after the test."""
    started: list[Service] = []

    def start(arguments: tuple[str, ...] = SLEEPER, *, outlive: bool = False, grace: float = 10.0) -> Service:
        service = Service("sleeper", tmp_path, outlive=outlive, grace_seconds=grace)
        started.append(service)
        service.start(Command(arguments=arguments, folder=tmp_path, environment={}))
        service.wait_until(lambda: "awake" in service.log.read_text(), timeout=LONG_SECONDS)
        return service

    yield start
    for service in started:
        service.kill()


def start_elsewhere(
    folder: Path, mode: str, arguments: tuple[str, ...] = SLEEPER
) -> tuple["subprocess.Popen[str]", psutil.Process]:
    """Start the sleeper from another process, and give both."""
    starter = subprocess.Popen(  # noqa: S603  # this interpreter
        [sys.executable, "-c", STARTER, str(folder), mode, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    return starter, psutil.Process(int(starter.stdout.readline()))


def start_and_wait(service: Service, command: Command) -> None:
    """Start the service and wait for an answer that never comes."""
    service.start(command)
    service.wait_until(lambda: False, timeout=LONG_SECONDS)


def end(starter: "subprocess.Popen[str]") -> None:
    """End the starter by SIGKILL, which leaves it no time to tidy up."""
    starter.kill()
    with starter:
        starter.wait()


def test_stop_ends_in_order(start: StartSleeper) -> None:
    """After ``stop`` the process is gone and there is nothing to find."""
    service = start()
    process = psutil.Process(service.pid)

    service.stop()

    assert not process.is_running()
    assert service.pid is None


@pytest.mark.parametrize("outlive", [False, True])
def test_no_terminal_signal_reaches_it(start: StartSleeper, *, outlive: bool) -> None:
    """The process has a session of its own, so that Ctrl-C in its starter's terminal passes it by."""
    service = start(outlive=outlive)

    assert service.pid is not None
    assert os.getsid(service.pid) != os.getsid(0)


def test_a_frozen_process_is_woken_to_end(start: StartSleeper) -> None:
    """``stop`` ends a process that SIGSTOP froze, well within the grace."""
    service = start(grace=LONG_SECONDS)
    process = psutil.Process(service.pid)
    process.suspend()

    service.stop()

    assert not process.is_running()


def test_a_deaf_process_is_killed(start: StartSleeper) -> None:
    """A process that ignores the request to end is killed when its grace is over."""
    service = start(DEAF, grace=0.1)
    process = psutil.Process(service.pid)

    service.stop()

    assert not process.is_running()


def test_kill_takes_the_children_too(start: StartSleeper) -> None:
    """``kill`` returns when the process's children have gone as well."""
    service = start(FAMILY)
    process = psutil.Process(service.pid)
    service.wait_until(lambda: len(process.children()) == 1, timeout=LONG_SECONDS)
    family = [process, *process.children()]

    service.kill()

    assert [member for member in family if member.is_running()] == []


@pytest.mark.parametrize("arguments", [SLEEPER, FAMILY], ids=["alone", "with a child"])
def test_a_private_process_ends_with_its_killed_owner(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Even SIGKILL of the owner leaves no process behind."""
    starter, process = start_elsewhere(tmp_path, "private", arguments)
    warden = process.parent()
    assert warden is not None

    end(starter)

    assert wait_gone([process, warden], timeout=LONG_SECONDS)


def test_a_private_process_ends_with_its_killed_guard(start: StartSleeper) -> None:
    """Should somebody kill the guard, the process does not stay."""
    if sys.platform != "linux":
        pytest.skip("only Linux ends a child with its parent")
    service = start()
    process = psutil.Process(service.pid)
    warden = process.parent()
    assert warden is not None

    warden.kill()

    assert wait_gone([process], timeout=LONG_SECONDS)


def test_a_kept_process_outlives_its_starter(tmp_path: Path) -> None:
    """What is to outlive its starter does, and another process finds and ends it."""
    starter, process = start_elsewhere(tmp_path, "outlive")
    end(starter)
    service = Service("sleeper", tmp_path, outlive=True)

    found = service.is_claimed()
    service.stop()

    assert found
    assert wait_gone([process], timeout=0.0)
    assert not service.is_claimed()


def test_a_live_owners_process_is_not_ours(tmp_path: Path) -> None:
    """A process that another live one owns is refused by that one's name, and left alone."""
    starter, process = start_elsewhere(tmp_path, "private")
    service = Service("sleeper", tmp_path, outlive=False)

    with pytest.raises(UsageError, match=rf"in use by process {starter.pid}\b.*choose another folder"):
        service.is_claimed()

    assert process.is_running()
    end(starter)


def test_a_kept_process_is_not_a_private_ones(start: StartSleeper, tmp_path: Path) -> None:
    """A private service does not take over what ``uniroute up`` keeps, for it would end it with itself."""
    start(outlive=True)
    private = Service("sleeper", tmp_path, outlive=False)

    with pytest.raises(UsageError, match=r"in use by uniroute up: run uniroute down"):
        private.is_claimed()


def test_what_a_dead_owner_left_is_ended(start: StartSleeper, tmp_path: Path) -> None:
    """A live process whose owner has gone is a leftover: it is ended, and the folder is free."""
    service = start()
    process = psutil.Process(service.pid)
    record_file = tmp_path / "sleeper.json"
    record = ProcessRecord(**json.loads(record_file.read_text()))
    record_file.write_text(json.dumps(asdict(replace(record, owner_created=record.owner_created - 3600))))

    claimed = Service("sleeper", tmp_path, outlive=False).is_claimed()

    assert not claimed
    assert not process.is_running()


def test_a_recycled_pid_is_another_process() -> None:
    """The pid of a record may belong to a later process by now, which is not the one recorded."""
    here = psutil.Process()
    record = ProcessRecord.of(here, arguments=here.cmdline(), owned=False)

    assert record.find() == here
    assert replace(record, created=record.created - 3600).find() is None
    assert replace(record, arguments=["java", "kafka.Kafka"]).find() is None


def test_a_stale_record_is_no_obstacle(start: StartSleeper, tmp_path: Path) -> None:
    """A record whose pid is now this very process is nobody's, and the next start replaces it."""
    record = ProcessRecord(pid=os.getpid(), created=0.0, arguments=["java"])
    (tmp_path / "sleeper.json").write_text(json.dumps(asdict(record)))
    stale = Service("sleeper", tmp_path, outlive=False)

    claimed, found = stale.is_claimed(), stale.pid
    service = start()

    assert (claimed, found) == (False, None)
    assert service.pid not in {None, os.getpid()}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_an_unreadable_record_is_none(tmp_path: Path, text: str) -> None:
    """A record that was cut short describes no process."""
    (tmp_path / "sleeper.json").write_text(text)

    assert Service("sleeper", tmp_path, outlive=False).pid is None


@pytest.mark.parametrize("outlive", [False, True])
def test_a_failed_start_quotes_the_log(tmp_path: Path, *, outlive: bool) -> None:
    """The error of a process that ends before it answers has the end of its log."""
    service = Service("broken", tmp_path, outlive=outlive)
    arguments = [sys.executable, "-c", "raise SystemExit('the disk is made of cheese')"]

    with pytest.raises(
        ServiceError, match=r"(?s)^broken ended .*broken\.log:\n    the disk is made of cheese$"
    ):
        start_and_wait(service, Command(arguments=arguments, folder=tmp_path, environment={}))

    assert service.pid is None


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    """A private command that cannot be run is an error that quotes why."""
    service = Service("missing", tmp_path, outlive=False)

    with pytest.raises(ServiceError, match=r"(?s)missing could not be started.*no-such-program"):
        service.start(Command(arguments=["/no-such-program"], folder=tmp_path, environment={}))

    service.stop()


def test_silence_is_an_error_after_the_timeout(start: StartSleeper) -> None:
    """A live process that does not answer in time is an error that says how long was waited."""
    service = start()

    with pytest.raises(ServiceError, match=r"sleeper did not answer within 0 s"):
        service.wait_until(lambda: False, timeout=0.0)


def test_the_log_before_is_kept(start: StartSleeper, tmp_path: Path) -> None:
    """A restart begins a new log and keeps the one before."""
    service = start()
    service.stop()
    start()

    assert (tmp_path / "sleeper.log.1").read_text() == "awake\n"
    assert (tmp_path / "sleeper.log").read_text() == "awake\n"


def test_the_guard_passes_the_exit_code_on(tmp_path: Path) -> None:
    """A guard ends with its child and takes its exit code; 128 + n for a child that signal n ended."""
    codes = []
    for program in ("raise SystemExit(7)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        command = [sys.executable, "-I", "-S", str(guard.PATH), f"--owner={os.getpid()}", "--"]
        done = subprocess.run(  # noqa: S603  # this interpreter
            [*command, sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False
        )
        codes.append(done.returncode)

    assert codes == [7, 128 + signal.SIGKILL]


def test_a_zombie_counts_as_gone() -> None:
    """A process that has ended but was not yet waited for is not alive."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process = psutil.Process(child.pid)
    created = process.create_time()
    assert child.stdout is not None
    child.stdout.read()

    gone = wait_gone([process], timeout=LONG_SECONDS)
    found = find_process(child.pid, created=created)
    with child:
        child.wait()

    assert gone
    assert found is None


def test_a_frozen_process_goes_on_when_woken(start: StartSleeper) -> None:
    """It lives and does nothing while it is frozen; it is the same process afterwards."""
    service = start()
    process = psutil.Process(service.pid)

    service.freeze()
    service.wait_until(lambda: process.status() == psutil.STATUS_STOPPED, timeout=LONG_SECONDS)
    service.wake()
    service.wait_until(lambda: process.status() != psutil.STATUS_STOPPED, timeout=LONG_SECONDS)

    assert service.pid == process.pid
