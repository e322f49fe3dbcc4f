"""What a run of the demonstration is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run."""

    prompts: int = 2_000
    #: What the LLM that joins half-way is: one that should be adopted, or one that should not.
    join: Literal["better", "worse"] = "better"
    #: A folder of recorded outcomes to play back; ``None`` for the built-in tasks.
    outcomes: Path | None = None
    seed: int = 0
    #: Labelled prompts from which each LLM is learned, at most.
    labels: int = 400
    #: Prompts that the cluster map is fitted on, at most.
    train: int = 2_000
    #: Prompts without a reply at any time: the run is a closed loop.
    concurrency: int = 32
    #: What goes wrong with calls to the simulated LLMs; ``None`` for nothing.
    faults: Path | None = None
    #: Kill the router by SIGKILL a third into the run, and start it again.
    kill_router: bool = False
    #: Decide everything again afterwards, from what was logged.
    replay_check: bool = False
    #: The folder of the embedder's artifact; ``None`` for the MiniLM, which is exported where it is missing.
    embedder: Path | None = None
    #: Processes that the simulated LLMs are dealt out to.
    llm_servers: int = 1
    #: What the simulated LLMs take of the time that they would; 0 answers at once.
    latency_scale: float = 1.0
