"""``uniroute llm``: the LLMs that prompts are routed to."""

from pathlib import Path
from typing import Annotated

import typer

from routing.llms import DEFAULT_OUTPUT_TOKENS, LLM, Price
from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_labels
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, Registration

command = typer.Typer(no_args_is_help=True, help="Add, list and remove LLMs.")


@command.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Its name: what prompts, replies and topics call it.")],
    *,
    base_url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, https://.../v1.")],
    input_price: Annotated[float, typer.Option(help="USD per million input tokens.")],
    output_price: Annotated[float, typer.Option(help="USD per million output tokens.")],
    fixed_price: Annotated[float, typer.Option(help="USD per call.")] = 0.0,
    provider_model: Annotated[str | None, typer.Option(help="Its name at the endpoint, if another.")] = None,
    api_key: Annotated[str, typer.Option(help="Where its key is: env:NAME. Never the key itself.")] = "",
    context_length: Annotated[int | None, typer.Option(help="Tokens that prompt and answer share.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="tools, vision, json, ...; repeat it.")] = None,
    output_tokens: Annotated[
        float, typer.Option(help="Tokens an answer is expected to have.")
    ] = DEFAULT_OUTPUT_TOKENS,
    labels: Annotated[
        Path | None, typer.Option(help='JSON lines of {"prompt": ..., "score": 0..1}: a few hundred do.')
    ] = None,
    simulated: Annotated[bool, typer.Option(help="Mark it as simulated wherever it is shown.")] = False,
) -> None:
    """Register an LLM; routers choose it from the next second on, with no restart."""
    import numpy as np

    from workers.embedding.loading import open_for
    from workers.onboarding import onboard
    from workers.storage.cluster_maps import ClusterMaps

    settings = read_settings()
    registration = Registration(
        llm=LLM(
            name=name,
            price=Price(
                input_usd_per_mtok=input_price, output_usd_per_mtok=output_price, fixed_usd=fixed_price
            ),
            context_length=context_length,
            capabilities=frozenset(capability or ()),
            simulated=simulated,
            expected_output_tokens=output_tokens,
        ),
        base_url=base_url,
        provider_model=provider_model or name,
        api_key_ref=api_key,
    )
    graded = read_labels(labels) if labels else []
    with open_engine(settings) as engine:
        with transaction(engine) as session:
            fitted = ClusterMaps(session).active()
        if fitted is None:
            raise UsageError("no cluster map is in force: run `uniroute map fit PROMPTS` first")
        embedder = open_for(
            fitted.cluster_map.fingerprint,
            backend=settings.embedder_backend,
            threads=settings.embedder_threads,
            folder=settings.embedders_folder,
        )
        version = onboard(
            engine,
            settings,
            registration,
            embeddings=embedder.encode([label.prompt for label in graded]),
            scores=np.array([label.score for label in graded], dtype=np.float64),
        )
    typer.echo(f"{name} is registered with {len(graded)} labels; error rates version {version}.")


@command.command("list")
def list_llms(*, as_json: AsJson = False) -> None:
    """List the LLMs with their prices and states."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = LLMs(session).list()
    if as_json:
        print_json(
            [
                {
                    "name": one.llm.name,
                    "state": one.state,
                    "simulated": one.llm.simulated,
                    "input_usd_per_mtok": one.llm.price.input_usd_per_mtok,
                    "output_usd_per_mtok": one.llm.price.output_usd_per_mtok,
                    "fixed_usd": one.llm.price.fixed_usd,
                    "base_url": one.registration.base_url,
                }
                for one in found
            ]
        )
        return
    print_table(
        ["LLM", "state", "USD/M in", "USD/M out", "endpoint"],
        [
            [
                f"{one.llm.name} (simulated)" if one.llm.simulated else one.llm.name,
                one.state,
                f"{one.llm.price.input_usd_per_mtok:g}",
                f"{one.llm.price.output_usd_per_mtok:g}",
                one.registration.base_url,
            ]
            for one in found
        ],
        empty="No LLM is registered: add one with `uniroute llm add`.",
    )


@command.command("remove")
def remove(name: Annotated[str, typer.Argument(help="The LLM's name.")]) -> None:
    """Take an LLM out of routing; what is dispatched to it already is still answered."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        LLMs(session).retire(name)
    typer.echo(f"{name} is retired.")
