"""Runs an exported graph on OpenVINO: the fastest back end on x86, and the only one here with bf16."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from routing.embedders import FloatMatrix
from workers.embedding.artifacts import Precision
from workers.embedding.errors import BackendUnavailableError
from workers.embedding.extras import require
from workers.embedding.transformers import Run
from workers.embedding.windows import IntMatrix

#: What OpenVINO keeps of the shapes it has met: a few entries for each. By default it keeps 5,000, and a
#: process that embeds for hours grows by half a megabyte with every new pair of rows and width. Few shapes
#: come often enough for more to be faster.
_KEPT_ENTRIES = 64


def open_openvino(model: Path, *, precision: Precision, threads: int) -> Run:
    """Compile a graph for the CPU.

    ``f32`` is exact. ``bf16`` needs a CPU that computes it (AVX512-BF16 or AMX); elsewhere OpenVINO would
    emulate it, slower than f32, so that is a ``BackendUnavailableError``.
    """
    core = import_openvino().Core()
    if precision == "bf16":
        check_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    compiled = core.compile_model(
        str(model),
        "CPU",
        {
            # Without it OpenVINO takes bf16 by itself where the CPU has it.
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned threads of two workers on one machine would share a core and leave another idle.
            "ENABLE_CPU_PINNING": False,
            # Not in its public API; without it memory is bounded by the shapes alone.
            "CPU_RUNTIME_CACHE_CAPACITY": str(_KEPT_ENTRIES),
        },
    )
    request: Any = compiled.create_infer_request()

    def run(ids: IntMatrix, mask: IntMatrix) -> FloatMatrix:
        return cast(FloatMatrix, request.infer({"input_ids": ids, "attention_mask": mask})[0])

    return run


def check_bf16(capabilities: list[str]) -> None:
    """Refuse bf16 on a CPU whose capabilities, in OpenVINO's words, do not name it."""
    if "BF16" not in capabilities:
        raise BackendUnavailableError(
            "openvino", "this CPU has no bf16 arithmetic and would only emulate it; use precision f32"
        )


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry client, which it would load though nothing here calls it.

    An entry of None makes that import fail as if the client were not installed, and OpenVINO takes its
    own stub: this process can report to no one.
    """
    modules = cast(dict[str, ModuleType | None], sys.modules)
    modules.setdefault("openvino_telemetry", None)
    return require("openvino", extra="openvino")
