"""Programs that LLMs wrote are run within limits, and leave nothing behind."""

from pathlib import Path

import psutil
import pytest

from workers.graders import Reference, grade_program
from workers.local.processes import wait_gone
from workers.programs import ProgramLimits, run_program

SUM = Reference(prompt="Add two numbers.", answer="5", checker="program", stdin="2 3\n")


def test_a_program_is_graded_by_what_it_prints() -> None:
    """In its fence or alone; one that prints something else, or nothing at all, is wrong."""
    right = "print(sum(map(int, input().split())))"

    assert grade_program(SUM, right) == 1.0
    assert grade_program(SUM, f"Here it is:\n```python\n{right}\n```\nIt adds them.") == 1.0
    assert grade_program(SUM, "print('the sum of', input())") == 0.0
    assert grade_program(SUM, "5") == 0.0


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(3)",
        "this is no program",
        "print('x' * 4_000_000)",
        "blob = bytearray(2**30)",
        "while True: pass",
        "open('large', 'wb').write(bytes(4_000_000))",
        "files = [open('/dev/null') for _ in range(100)]",
    ],
    ids=["exit", "syntax", "output", "memory", "cpu", "file", "files"],
)
def test_a_program_that_fails_or_passes_a_limit_has_no_output(source: str) -> None:
    """It is ended, and graded as wrong, whatever it did."""
    assert run_program(source, limits=ProgramLimits(cpu_seconds=1)) is None


def test_a_program_that_waits_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """Its child writes down who it is, and is gone when the call returns."""
    note = tmp_path / "child"
    source = f"""
import os, time
if os.fork() == 0:
    open({str(note)!r}, "w").write(str(os.getpid()))
time.sleep(60)
"""

    assert run_program(source, limits=ProgramLimits(seconds=5.0)) is None
    child = int(note.read_text())
    assert not psutil.pid_exists(child) or wait_gone([psutil.Process(child)], timeout=10.0)


def test_a_program_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that lie in the environment are not handed on, nor is the folder kept."""
    monkeypatch.setenv("SECRET_KEY", "secret")
    printed = run_program("import os; print(sorted(os.environ), os.getcwd())")

    assert printed is not None
    assert "SECRET_KEY" not in printed
    assert not Path(printed.split()[-1]).exists()
