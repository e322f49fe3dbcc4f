"""``uniroute llm``: the LLMs that prompts are routed to."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from routing.errors import UnknownLLMError
from routing.llms import DEFAULT_OUTPUT_TOKENS, LLM, Price
from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_labels
from workers.cli.lifecycle import demote, drain, journal, onboard, promote, remove
from workers.cli.sampling import sample
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, Registration

command = typer.Typer(no_args_is_help=True, help="Add, probe, try, list, change and remove LLMs.")

for _step in (onboard, sample, promote, demote, drain, remove, journal):
    command.command(_step.__name__)(_step)


@command.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Its name: what prompts, replies and topics call it.")],
    *,
    base_url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, https://.../v1.")],
    input_price: Annotated[float, typer.Option(help="USD per million input tokens.")],
    output_price: Annotated[float, typer.Option(help="USD per million output tokens.")],
    fixed_price: Annotated[float, typer.Option(help="USD per call.")] = 0.0,
    cached_input_price: Annotated[
        float | None, typer.Option(help="USD per million input tokens that it has in its cache.")
    ] = None,
    provider_model: Annotated[str | None, typer.Option(help="Its name at the endpoint, if another.")] = None,
    api_key: Annotated[
        str, typer.Option(help="Where its key is: env:NAME or file:/PATH. Never itself.")
    ] = "",
    context_length: Annotated[int | None, typer.Option(help="Tokens that prompt and answer share.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="tools, vision, json, ...; repeat it.")] = None,
    output_tokens: Annotated[
        float, typer.Option(help="Tokens an answer is expected to have.")
    ] = DEFAULT_OUTPUT_TOKENS,
    labels: Annotated[
        Path | None, typer.Option(help='JSON lines of {"prompt": ..., "score": 0..1}: a few hundred do.')
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Calls that its provider allows in any minute.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(help="Tokens that its provider allows in any minute.")
    ] = None,
    simulated: Annotated[bool, typer.Option(help="Mark it as simulated wherever it is shown.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="It gets no traffic yet: `llm onboard` probes it first.")
    ] = False,
) -> None:
    """Register an LLM; routers choose it from the next second on, with no restart. Or `--probe` it first."""
    import numpy as np

    from workers.embedding.loading import open_configured
    from workers.lifecycle import begin
    from workers.onboarding import onboard as learn
    from workers.storage.cluster_maps import ClusterMaps

    settings = read_settings()
    registration = Registration(
        llm=LLM(
            name=name,
            price=Price(
                input_usd_per_mtok=input_price,
                output_usd_per_mtok=output_price,
                fixed_usd=fixed_price,
                cached_input_usd_per_mtok=cached_input_price,
            ),
            context_length=context_length,
            capabilities=frozenset(capability or ()),
            simulated=simulated,
            expected_output_tokens=output_tokens,
        ),
        base_url=base_url,
        provider_model=provider_model or name,
        api_key_ref=api_key,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    if probe and labels:
        raise UsageError("--labels tells how good it is, --probe finds out: give one of them")
    graded = read_labels(labels) if labels else []
    with open_engine(settings) as engine:
        if probe:
            begin(engine, settings, registration)
            typer.echo(f"{name} is registered to be probed: `uniroute llm onboard {name} --labels FILE`.")
            return
        with transaction(engine) as session:
            fitted = ClusterMaps(session).require_active()
        embedder = open_configured(settings, fitted.cluster_map.fingerprint)
        version = learn(
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
                    "cached_input_usd_per_mtok": one.llm.price.cached_input_usd_per_mtok,
                    "price_version": one.price_version,
                    "context_length": one.llm.context_length,
                    "capabilities": sorted(one.llm.capabilities),
                    "base_url": one.registration.base_url,
                    "requests_per_minute": one.registration.requests_per_minute,
                    "tokens_per_minute": one.registration.tokens_per_minute,
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


@command.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="The LLM's name.")],
    *,
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint.")] = None,
    provider_model: Annotated[str | None, typer.Option(help="Its name at the endpoint.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Where its key is, as for `llm add`.")] = None,
    context_length: Annotated[
        int | None, typer.Option(min=0, help="Tokens that prompt and answer share; 0: no limit is known.")
    ] = None,
    capability: Annotated[
        list[str] | None, typer.Option(help="All that it declares, in place of what it did; repeat it.")
    ] = None,
    no_capabilities: Annotated[bool, typer.Option("--no-capabilities", help="It declares none.")] = False,
    output_tokens: Annotated[
        float | None, typer.Option(help="Tokens an answer has until its usage tells.")
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0, help="Calls that its provider allows in any minute; 0: any.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(min=0, help="Tokens that its provider allows in any minute; 0: any.")
    ] = None,
    simulated: Annotated[bool | None, typer.Option(help="Mark it as simulated, or not.")] = None,
) -> None:
    """Change what is known of an LLM, from now on; what is not given stays, and so does its evidence.

    Prices are changed by `price set`. For another model behind the same name: remove it and add it anew.
    """
    given = {
        "context_length": context_length,
        "capabilities": frozenset(capability or ()) if capability or no_capabilities else None,
        "expected_output_tokens": output_tokens,
        "simulated": simulated,
    }
    facts: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    if context_length == 0:
        facts["context_length"] = None
    served = {
        "base_url": base_url,
        "provider_model": provider_model,
        "api_key_ref": api_key,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    places: dict[str, Any] = {field: value or None for field, value in served.items() if value is not None}
    if api_key == "":
        places["api_key_ref"] = ""
    if not facts and not places:
        raise UsageError("give what is to change: `uniroute llm set --help` lists it")
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = LLMs(session).get(name)
        if found is None:
            raise UnknownLLMError(name, LLMs(session).names())
        llm = replace(found.llm, **facts)
        version = LLMs(session).revise(replace(found.registration, llm=llm, **places))
    typer.echo(f"What is known of {name} is version {version}.")
