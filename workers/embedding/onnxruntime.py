"""Runs an exported graph on onnxruntime, in f32: for machines where OpenVINO has no wheel."""

from pathlib import Path
from typing import Any, cast

from routing.embedders import FloatMatrix
from workers.embedding.extras import require
from workers.embedding.transformers import Run
from workers.embedding.windows import IntMatrix


def open_onnxruntime(model: Path, *, threads: int) -> Run:
    """Open a graph for the CPU, with ``threads`` threads that sleep, not spin, between batches."""
    onnxruntime = require("onnxruntime", extra="onnx")
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Patterns are kept per shape, and every window has new ones.
    options.enable_mem_pattern = False
    session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run(ids: IntMatrix, mask: IntMatrix) -> FloatMatrix:
        return cast(FloatMatrix, session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0])

    return run
