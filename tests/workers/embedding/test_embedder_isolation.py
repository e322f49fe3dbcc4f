"""What a router's process carries: its back end and nothing else, and no line to the outside."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

#: Runs in a process of its own; any attempt to reach a network ends it with an error.
ROUTER = """
import sys
from pathlib import Path

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise RuntimeError(f"{event}{arguments}")

sys.addaudithook(refuse)
from workers.embedding.loading import load_embedder
load_embedder(Path(sys.argv[1]), backend=sys.argv[2], threads=1).encode(["a prompt"])
print(*sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None}))
"""
WITHOUT_EXTRAS = """
import sys
for name in ("torch", "tokenizers", "openvino", "onnxruntime", "sentence_transformers", "transformers"):
    sys.modules[name] = None
import workers.embedding.loading, workers.embedding.export, workers.embedding.cache
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("backend", "absent"),
    [("openvino", "onnxruntime"), ("onnxruntime", "openvino"), ("auto", "onnxruntime")],
)
def test_a_router_imports_its_back_end_alone(tiny_export: Path, backend: str, absent: str) -> None:
    """No torch, no transformers, no other runtime, no telemetry client, and no connection attempted."""
    done = run_python(ROUTER, str(tiny_export), backend)

    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "tokenizers" in imported
    assert imported.isdisjoint(
        {"torch", "transformers", "sentence_transformers", "huggingface_hub", "openvino_telemetry", absent}
    )


def test_the_package_needs_no_extra() -> None:
    """A process without any embedding extra imports it all: libraries are loaded when a back end opens."""
    done = run_python(WITHOUT_EXTRAS)

    assert done.returncode == 0, done.stderr
