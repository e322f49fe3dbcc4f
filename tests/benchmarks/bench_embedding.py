"""Back ends of the embedder side by side on the same prompts; needs the model of the export extra."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from routing.embedders import Embedder
from workers.embedding.artifacts import Precision
from workers.embedding.comparison import compare_embedders
from workers.embedding.errors import EmbedderError
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import DEFAULT_FOLDER, Backend, load_embedder
from workers.local.simulated.builtin import BuiltinSource

#: The first is what the others are measured by.
BACK_ENDS: tuple[tuple[Backend, Precision], ...] = (
    ("sentence-transformers", "f32"),
    ("onnxruntime", "f32"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
)
N_PROMPTS = 512
#: Makes three prompts in four long: real prompts are uneven, and that is what windows are for.
PADDING = "Think it over step by step, and mind the units. "


def run(n_prompts: int = N_PROMPTS, folder: Path = DEFAULT_FOLDER) -> dict[str, Any]:
    """Give, by back end, prompts per second, CPU seconds per 1,000, and agreement with sentence-transformers.

    Prompts are built-in tasks, lengthened unevenly to 20-250 tokens. A back end that this machine cannot
    run has a ``problem`` instead.
    """
    artifact = ensure_artifact(folder=folder)
    texts = make_texts(n_prompts)
    embedders: list[tuple[str, Embedder]] = []
    found: dict[str, Any] = {}
    for backend, precision in BACK_ENDS:
        label = f"{backend} {precision}"
        try:
            embedders.append((label, load_embedder(artifact, backend=backend, precision=precision)))
        except EmbedderError as error:
            found[label] = {"problem": str(error)}
    for one in compare_embedders(embedders, texts):
        found[one.label] = asdict(one)
    return {"prompts": n_prompts, "back_ends": found}


def make_texts(n_prompts: int) -> list[str]:
    """Give built-in tasks, the k-th with ``7 * (k % 4)`` sentences before it."""
    tasks = BuiltinSource(seed=0).prompts("traffic", n_prompts)
    return [PADDING * (7 * (index % 4)) + task.text for index, task in enumerate(tasks)]


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:2])), indent=2))
