"""Roles as processes: what they refuse to start with, and what their web views say."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from installations import Installation
from static_artifacts import write_static_artifact

from workers.local.ports import choose_ports
from workers.local.stack import LocalStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PATIENCE_S = 120.0


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """A map with one LLM."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
    )
    with created:
        created.register("only")
        yield created


def test_a_router_refuses_another_embedder(installation: Installation, tmp_path: Path) -> None:
    """An artifact of the same name and another content: the router ends by itself and says what differs."""
    other = tmp_path / "other"
    write_static_artifact(other, seed=1)

    router = installation.serve("router", environment={"UNIROUTE_EMBEDDERS_FOLDER": str(other)})
    code = router.wait(timeout_s=PATIENCE_S)
    checksums = r"checksum is '[0-9a-f]{64}', not '[0-9a-f]{64}'"
    sentence = f"the embedder is not the one the cluster map was fitted on: {checksums}"

    assert code != 0
    assert re.search(sentence, router.log.read_text())
    assert router.said("Traceback") == 0


def test_a_router_without_any_artifact_says_how_to_make_one(
    installation: Installation, tmp_path: Path
) -> None:
    """It ends by itself, with the command in its last words."""
    environment = {"UNIROUTE_EMBEDDERS_FOLDER": str(tmp_path / "empty")}

    router = installation.serve("router", environment=environment)
    code = router.wait(timeout_s=PATIENCE_S)

    assert code != 0
    assert router.said("uniroute embedder export words") >= 1
    assert router.said("Traceback") == 0


@pytest.mark.parametrize("role", ["router", "learner"])
@pytest.mark.parametrize("key", ["", "short"])
def test_a_role_without_a_signing_key_refuses(installation: Installation, role: str, key: str) -> None:
    """Decision ids that anyone could forge are no use; the variable is named."""
    worker = installation.serve(role, environment={"UNIROUTE_SIGNING_KEY": key})
    code = worker.wait(timeout_s=PATIENCE_S)

    assert code != 0
    assert worker.said("UNIROUTE_SIGNING_KEY") >= 1
    assert worker.said("Traceback") == 0


def test_health_and_metrics_are_served(installation: Installation) -> None:
    """503 or nothing until the role runs, then 200; metrics in Prometheus's format."""
    port = choose_ports(1)[0]
    router = installation.serve("router", web_port=port)
    router.wait_until_said('"event": "rebalanced"', times=1, timeout_s=PATIENCE_S)

    status, health = read_page(f"http://127.0.0.1:{port}/healthz")
    _, metrics = read_page(f"http://127.0.0.1:{port}/metrics")
    code, seconds = router.stop()

    assert (status, json.loads(health)) == (200, {"roles": {"router": True}})
    assert 'uniroute_state_stale{role="router"} 0.0' in metrics
    assert (code, seconds < 10) == (0, True)


def read_page(address: str) -> tuple[int, str]:
    """Read a page of a worker."""
    try:
        with urllib.request.urlopen(address, timeout=10) as page:  # noqa: S310 (loopback)
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
