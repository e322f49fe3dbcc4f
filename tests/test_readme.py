"""What README.md tells its reader to type, typed in its order."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from outcome_folders import write_topics

from workers.local.ports import choose_ports
from workers.local.simulated.builtin import BuiltinSource

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
#: The port that README gives to the simulated LLMs.
PORT = "8123"
#: Blocks that stand on nothing that was typed before, by what they hold.
APART = ("make ", "uniroute evaluate", "from routing")
#: Told to be run in passing, with no block of their own.
INLINE = ("uniroute topics --create", "uniroute db upgrade", "uniroute db check", "uniroute llm remove small")
#: Says, within a minute, how many pieces of feedback are counted, and is content with two.
COUNT_FEEDBACK = """
import time
from sqlalchemy import func, select
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.tables import FeedbackRow
engine, deadline = make_engine(Settings().database_url), time.monotonic() + 60
while True:
    with transaction(engine) as session:
        counted = session.scalar(select(func.count()).select_from(FeedbackRow))
    if counted >= 2 or time.monotonic() > deadline:
        break
    time.sleep(0.1)
print(counted)
"""
#: What methods are compared with; not methods themselves.
REFERENCES = frozenset({"best-single", "cheapest", "oracle", "random"})
#: More than a session takes on a machine that is busy with other things.
LONG_SECONDS = 560.0


@dataclass(frozen=True, slots=True)
class Step:
    """Something that README has its reader type, and what came of it."""

    kind: str
    text: str
    code: int | None = None
    out: str = ""
    err: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """All that was typed, and the processes that were left when the shell had ended."""

    steps: tuple[Step, ...]
    left: tuple[str, ...]

    def find(self, phrase: str) -> Step:
        """Give the one step whose text holds the phrase."""
        (found,) = (step for step in self.steps if phrase in step.text)
        return found


def plan_steps() -> list[Step]:
    """Put the blocks that belong to one shell in README's order, with what it says in passing."""
    steps = []
    for kind, text in BLOCKS:
        if "uniroute down" in text:
            steps += [Step("sh", f"{command}\n") for command in INLINE]
        if not any(phrase in text for phrase in APART):
            steps.append(Step(kind, text))
        if "Client(" in text:
            steps.append(Step("python", COUNT_FEEDBACK))
    return steps


def write_files(folder: Path) -> None:
    """Write what README takes for given: prompts, and labels of one LLM."""
    source = BuiltinSource(seed=0)
    prompts, labelled = source.prompts("train", 200), source.prompts("label", 100)
    column = [llm.name for llm in source.llms].index("sim-scribe")
    scores = source.truth([prompt.prompt_id for prompt in labelled]).scores[:, column].tolist()
    labels = [{"prompt": prompt.text, "score": score} for prompt, score in zip(labelled, scores, strict=True)]
    for name, rows in (("prompts", [{"prompt": prompt.text} for prompt in prompts]), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_script(folder: Path, steps: Sequence[Step]) -> Path:
    """Write one script of all steps, to end at the first that fails; each leaves its output and its code."""
    port, web_port = (str(port) for port in choose_ports(2))
    lines = [f"export UNIROUTE_WEB_PORT={web_port} XDG_DATA_HOME={folder}/share", "set -e"]
    for number, step in enumerate(steps):
        typed = step.text.replace(PORT, port)
        if step.kind == "python":
            (folder / f"{number}.py").write_text(typed)
            typed = f"python {number}.py\n"
        lines += [f"trap 'echo $? > {number}.code' EXIT", f"{{\n{typed}}} > {number}.out 2> {number}.err"]
        lines += [f"echo 0 > {number}.code"]
    script = folder / "session.sh"
    script.write_text("\n".join([*lines, "trap - EXIT", "wait", ""]))
    return script


def find_marked(folder: Path) -> list[psutil.Process]:
    """Find the live processes that came of the session in ``folder``, by a variable that they all inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("README_SESSION") == str(folder)
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone, or of another account
            continue
    return found


def type_all(folder: Path, bash: str, steps: Sequence[Step]) -> Session:
    """Type the steps into one shell, and end whatever is left of it, however it ends."""
    write_files(folder)
    script = write_script(folder, steps)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIROUTE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(  # noqa: S603  # our own README
        [bash, str(script)],
        cwd=folder,
        env={**kept, "PATH": path, "README_SESSION": str(folder)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        shell.wait(LONG_SECONDS)
    finally:
        left = find_marked(folder)
        names = tuple(" ".join(process.cmdline())[:200] for process in left)
        for process in left:
            process.kill()
        psutil.wait_procs(left)
        shell.wait()
    return Session(tuple(read_step(folder, number, step) for number, step in enumerate(steps)), names)


def read_step(folder: Path, number: int, step: Step) -> Step:
    """Add what a step left in its files; nothing where it was never reached."""
    files = {kind: folder / f"{number}.{kind}" for kind in ("code", "out", "err")}
    texts = {kind: file.read_text() if file.exists() else "" for kind, file in files.items()}
    return replace(
        step, code=int(texts["code"]) if texts["code"] else None, out=texts["out"], err=texts["err"]
    )


@pytest.fixture(scope="module")
def session() -> Session:
    """README's session, typed once."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("README's commands are written for bash, and there is none here")
    with tempfile.TemporaryDirectory(prefix="uniroute-readme-") as folder:
        return type_all(Path(folder), bash, plan_steps())


@pytest.mark.stack
@pytest.mark.model
@pytest.mark.timeout(LONG_SECONDS + 40)
def test_every_command_ends_well(session: Session) -> None:
    """Every block for the shell and for Python, in README's order, ends with exit code 0."""
    failed = [
        (step.text, step.code, step.out[-500:], step.err[-2000:]) for step in session.steps if step.code
    ]

    assert failed == [], session.find("uniroute serve all").err[-4000:]
    assert [step.text for step in session.steps if step.code is None] == []


@pytest.mark.stack
@pytest.mark.model
def test_readers_see_what_they_are_promised(session: Session) -> None:
    """The LLM is listed, the shell and Python each get its replies, both scores count, lambda is in force."""
    replies = session.find("Client(").out.splitlines()

    assert re.search(
        r"small +active +0\.1 +0\.4 +http://127\.0\.0\.1:", session.find("uniroute llm list").out
    )
    assert session.find('uniroute send "What is 7').out.strip()
    assert re.search(r"^small, 0\.\d+ USD$", session.find('uniroute send "What is 7').err, flags=re.MULTILINE)
    assert len([reply for reply in replies if re.match(r"small \d\S* \S", reply)]) == 2
    assert session.find("FeedbackRow").out == "2\n"
    assert re.search(
        r"default +\d+ +lagrangian +error_per_usd: 20\.0", session.find("uniroute policy list").out
    )
    planned = session.find("uniroute policy plan").out
    assert "+ careful: kind: quality-floor, tolerance: 0.02" in planned
    assert "Policy careful version 1 is in force." in planned
    assert "small is the only LLM that the limits leave." in planned
    assert re.search(r"(\d+) of \1 decisions came out the same, bit for bit\.", planned)
    assert re.search(r"search +\d{4}-\d\d-\d\d +20", session.find("uniroute tenant add").out)
    assert "completed: 2 done, 0 failed of 2" in " ".join(session.find("uniroute batch submit").out.split())
    assert session.find("uniroute llm remove").out == "small is retired.\n"


@pytest.mark.stack
@pytest.mark.model
def test_nothing_is_left_running(session: Session) -> None:
    """What README has its reader stop is all there is to stop."""
    assert session.left == ()


def test_python_without_a_queue(tmp_path: Path) -> None:
    """The mathematics alone runs as it stands, and routes five prompts."""
    (block,) = (text for kind, text in BLOCKS if kind == "python" and "from routing" in text)
    (tmp_path / "block.py").write_text(block)

    done = run([sys.executable, "block.py"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert set(ast.literal_eval(done.stdout)) <= {"large", "small"}
    assert len(ast.literal_eval(done.stdout)) == 5


@pytest.mark.model
def test_recorded_outcomes(tmp_path: Path) -> None:
    """A folder of recorded outcomes is compared by as many methods as are promised, and drawn."""
    (block,) = (text for _, text in BLOCKS if "uniroute evaluate" in text)
    write_topics(tmp_path / "outcomes", n_llms=4, per_topic=15)

    done = run([str(Path(sys.executable).parent / "uniroute"), *shlex.split(block)[1:]], tmp_path)

    assert done.returncode == 0, done.stderr
    methods = json.loads((tmp_path / "report.json").read_text())["methods"]
    assert len([name for name in methods if name not in REFERENCES]) == 13
    assert {file.suffix for file in (tmp_path / "plots").iterdir()} == {".png", ".svg"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)\b", README)) - {"sets"}))
def test_every_target_of_make_exists(target: str) -> None:
    """What README has its reader ``make`` can be made."""
    done = run([find_make(), "--dry-run", target], ROOT)

    assert done.returncode == 0, done.stderr


@pytest.mark.stack
@pytest.mark.model
def test_make_demo(tmp_path: Path) -> None:
    """``make demo`` hands its arguments through, answers every prompt and writes the report."""
    make, ready = find_make(), ROOT / ".venv" / ".ready"
    if not ready.exists():
        pytest.skip(f"{ready} is missing: make setup was not run here, and takes minutes")
    file = tmp_path / "report.json"

    done = run([make, "demo", f"ARGS=--prompts 200 --report {file}"], ROOT)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert (report["prompts"], report["replies"], report["lost"]) == (200, 200, 0)


def run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, to its end."""
    return subprocess.run(  # noqa: S603  # our own README
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=LONG_SECONDS
    )


def find_make() -> str:
    """Give the path of make; skips where there is none."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    return make
