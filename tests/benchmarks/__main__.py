"""``python -m benchmarks``: every measurement of the project in one run; JSON by ``--report``."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from workers.local.stack import LocalStack

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Run the benchmarks named, or all of them, and print each one's figures as soon as they are there."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS], help="which to run; all if none is named"
    )
    parser.add_argument("--report", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--lines", type=int, nargs="+", default=[5_000, 20_000], help="of batch: so many in each run"
    )
    arguments = parser.parse_args()
    BENCHMARKS["batch"] = partial(batch, arguments.lines)
    figures: dict[str, Any] = {"machine": {"cores": os.cpu_count(), "python": platform.python_version()}}
    for name in arguments.names or BENCHMARKS:
        print(f"# {name}", flush=True)
        figures[name] = BENCHMARKS[name]()
        print(json.dumps(figures[name], indent=2), flush=True)
        if arguments.report is not None:
            arguments.report.write_text(json.dumps(figures, indent=2) + "\n")


def routing() -> dict[str, Any]:
    """The mathematics alone, on one core: run before anything else loads a threaded BLAS."""
    from benchmarks import bench_routing

    return dict(bench_routing.run())


def assignment() -> dict[str, Any]:
    """Joint assignment of whole batches."""
    from benchmarks import bench_assignment

    return dict(bench_assignment.run())


def transactions() -> dict[str, Any]:
    """The exactly-once loop beside a bare transactional pass-through."""
    from benchmarks import bench_transactions

    with _stack() as stack:
        stack.kafka.start()
        return dict(bench_transactions.run(stack.kafka.bootstrap))


def storage() -> dict[str, Any]:
    """Feedback into Postgres."""
    from benchmarks import bench_storage

    with _stack() as stack:
        stack.postgres.start()
        return dict(bench_storage.run(stack.postgres.create_database("bench")))


def books() -> dict[str, Any]:
    """Usage into Postgres, and grants out of it."""
    from benchmarks import bench_books

    with _stack() as stack:
        stack.postgres.start()
        return dict(bench_books.run(stack.postgres.create_database("bench")))


def learner() -> dict[str, Any]:
    """Feedback through the learner into Postgres."""
    from benchmarks import bench_learner

    with _stack() as stack:
        stack.postgres.start()
        return dict(bench_learner.run(stack.postgres.create_database("bench")))


def refold() -> dict[str, Any]:
    """50,000 pieces of feedback, in any order and up to three times each, by three learners that die."""
    from installations import Installation
    from refolding import LLMS
    from refolding import refold as send_and_kill

    from workers.storage import migrate

    with _stack() as stack, tempfile.TemporaryDirectory(prefix="uniroute-bench-") as folder:
        endpoints = stack.start()
        url = stack.postgres.create_database("bench")
        migrate.upgrade(url)
        with Installation.create(
            kafka_bootstrap=endpoints.kafka_bootstrap, database_url=url, folder=Path(folder)
        ) as installation:
            for name in LLMS:
                installation.register(name)
            found = send_and_kill(installation, pieces=50_000)
    return {
        "messages": found.sent,
        "pieces": found.pieces,
        "counts_equal_the_fold": found.counted == found.expected,
        "seconds": found.seconds,
    }


def embedding() -> dict[str, Any]:
    """The embedder's back ends on the same prompts."""
    from benchmarks import bench_embedding

    return dict(bench_embedding.run())


def router() -> dict[str, Any]:
    """The router beside its encoder, and the latency of an idle system."""
    from benchmarks import bench_router

    with tempfile.TemporaryDirectory(prefix="uniroute-bench-") as folder:
        return dict(bench_router.run(Path(folder)))


def executor() -> dict[str, Any]:
    """The executor beside a bare openai client, and one LLM beside another that hangs."""
    from benchmarks import bench_executor

    with _stack() as stack:
        stack.kafka.start()
        bootstrap = stack.kafka.bootstrap
        return {
            **bench_executor.run(bootstrap),
            "beside_hanging": bench_executor.run_beside_hanging(bootstrap),
        }


def limits() -> dict[str, Any]:
    """Calls per minute of an LLM whose provider limits them, with four executors."""
    from benchmarks import bench_limits

    with _stack() as stack:
        stack.kafka.start()
        return dict(bench_limits.run(stack.kafka.bootstrap))


def cascade() -> dict[str, Any]:
    """A cascade with simulated confidences beside a route, on each outcome folder that is here."""
    from benchmarks import bench_cascade

    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("UNIROUTE_OUTCOMES", default))
    found = sorted(path for path in folder.glob("*") if path.is_dir())
    return {path.name: bench_cascade.run(path) for path in found} or {
        "skipped": f"{folder} holds no outcomes"
    }


def batch(lines: Sequence[int] = (5_000, 20_000)) -> dict[str, Any]:
    """Whole batches, one after the other; what a line takes should not depend on how many there are."""
    from benchmarks import bench_batch

    return {f"{count} lines": bench_batch.run(count) for count in lines}


def beside_batch() -> dict[str, Any]:
    """Live prompts' latency with a batch that takes all it can get, and without it."""
    from benchmarks import bench_beside_batch

    return dict(bench_beside_batch.run())


@contextmanager
def _stack() -> Iterator[LocalStack]:
    with tempfile.TemporaryDirectory(prefix="uniroute-bench-") as folder:
        stack = LocalStack(Path(folder))
        try:
            yield stack
        finally:
            stack.stop()


BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    benchmark.__name__: benchmark
    for benchmark in (
        routing,
        assignment,
        transactions,
        storage,
        books,
        learner,
        refold,
        embedding,
        router,
        executor,
        limits,
        cascade,
        batch,
        beside_batch,
    )
}

if __name__ == "__main__":
    main()
