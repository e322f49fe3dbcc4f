"""``uniroute send``: one prompt, by the same client that callers use."""

import sys
import uuid
from typing import Annotated

import typer

from workers.cli.console import FAILED, AsJson, print_json, read_settings
from workers.errors import WaitableError

command = typer.Typer()


@command.command("send")
def send(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    *,
    model: Annotated[str, typer.Option(help="auto, auto/POLICY, or an LLM's name.")] = "auto",
    max_cost_usd: Annotated[float | None, typer.Option(help="The most the answer may cost.")] = None,
    candidates: Annotated[str, typer.Option(help="Only these LLMs, separated by commas.")] = "",
    tenant: Annotated[str | None, typer.Option(help="Whose budget pays.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the reply.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Produce one prompt and wait for its reply."""
    from workers.client import Client

    text = sys.stdin.read() if prompt == "-" else prompt
    with Client(app="cli", settings=read_settings(), group=f"cli-{uuid.uuid4().hex}") as client:
        prompt_id = client.submit(
            text,
            model=model,
            max_cost_usd=max_cost_usd,
            candidates=[name for name in candidates.split(",") if name],
            tenant=tenant,
        )
        reply = next((one for one in client.replies(timeout_s=wait) if one.prompt_id == prompt_id), None)
    if reply is None:
        raise WaitableError("a worker", f"no reply came within {wait:g} s: is `uniroute serve all` running?")
    if as_json:
        print_json({"body": reply.body, "headers": reply.headers})
    elif reply.error is None:
        typer.echo(reply.text)
        cost = "unknown" if reply.cost_usd is None else f"{reply.cost_usd:.6f} USD"
        typer.echo(f"\n{reply.llm}, {cost}\ndecision {reply.decision_id}", err=True)
    else:
        typer.echo(f"uniroute: {reply.error}", err=True)
    if reply.error is not None:
        raise typer.Exit(FAILED)
