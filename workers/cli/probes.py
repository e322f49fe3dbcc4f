"""What the commands that probe LLMs share: the judge, and the prompts that traffic or a file gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy import Engine

from routing.errors import UnknownLLMError
from workers.cli.files import read_references
from workers.errors import UsageError
from workers.graders import Reference, grade, grade_program
from workers.prompts import count_tokens
from workers.settings import Settings
from workers.storage.engine import transaction

if TYPE_CHECKING:
    from workers.cascades import Scorer

JudgeUrl = Annotated[
    str | None,
    typer.Option(
        help="An OpenAI-compatible endpoint, https://.../v1, whose LLM grades what no checker does."
    ),
]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's name at its endpoint.")]
JudgeKey = Annotated[
    str, typer.Option(help="Where its key is, for executors: env:NAME or file:/PATH. Never itself.")
]
JudgeInputPrice = Annotated[
    float | None, typer.Option(min=0.0, help="USD per million input tokens of the judge.")
]
JudgeOutputPrice = Annotated[
    float | None, typer.Option(min=0.0, help="USD per million output tokens of the judge.")
]
RunPrograms = Annotated[
    bool,
    typer.Option(
        "--run-programs",
        help="Run what LLMs wrote, for the checker program: with limits of time, memory and files, but as "
        "this account and with its network. There is no sandbox.",
    ),
]


def read_judge(
    url: str | None, model: str | None, key: str, input_price: float | None, output_price: float | None
) -> "Scorer | None":
    """Give the judge, ``None`` where no flag names one; ``UsageError`` where it is half declared."""
    from workers.cascades import Scorer

    given = {
        "--judge-url": url,
        "--judge-model": model,
        "--judge-input-price": input_price,
        "--judge-output-price": output_price,
    }
    if all(value is None for value in given.values()) and not key:
        return None
    if url is None or model is None or input_price is None or output_price is None:
        missing = ", ".join(name for name, value in given.items() if value is None)
        raise UsageError(f"a judge is a paid LLM with a name and prices: give {missing} too")
    if key and not key.startswith(("env:", "file:")):
        raise UsageError("--judge-key says where the key is, env:NAME or file:/PATH; never the key itself")
    return Scorer(
        base_url=url,
        model=model,
        api_key_ref=key,
        input_usd_per_mtok=input_price,
        output_usd_per_mtok=output_price,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToAsk:
    """A prompt to put to an LLM, and how its answer is graded: ``None`` for the judge."""

    text: str
    body: Mapping[str, Any]
    input_tokens: float
    grade: Callable[[str], float] | None
    reference: str = ""


def read_graded(labels: Path | None, judge: "Scorer | None", *, run_programs: bool) -> list[ToAsk]:
    """Read prompts with their checkers; ``UsageError`` where one needs a judge, or leave to run programs."""
    if labels is None:
        raise UsageError("give --labels FILE, or --from-traffic with a judge")
    references = read_references(labels)
    if judge is None and any(one.checker == "judge" for one in references):
        raise UsageError(f"{labels} leaves answers to a judge: name it by --judge-url and the like")
    if not run_programs and any(one.checker == "program" for one in references):
        raise UsageError(
            f"{labels} has programs run that LLMs write, which may do whatever this account may: allow it by "
            "--run-programs, in a container or by an account that has nothing to lose"
        )
    return [
        ToAsk(
            text=one.prompt,
            body={"messages": [{"role": "user", "content": one.prompt}]},
            input_tokens=count_tokens(one.prompt),
            grade=_grade_by(one),
            reference=one.answer,
        )
        for one in references
    ]


def _grade_by(one: Reference) -> Callable[[str], float] | None:
    if one.checker == "judge":
        return None
    return partial(grade_program if one.checker == "program" else grade, one)


def read_traffic(
    engine: Engine,
    settings: Settings,
    name: str,
    judge: "Scorer | None",
    *,
    labels: Path | None,
    most: int,
    share: float,
) -> list[ToAsk]:
    """Read live prompts that an LLM may be shown; ``UsageError`` where there is none, or no judge."""
    from workers.lifecycle.traffic import allowed_for, read_live
    from workers.storage.llms import LLMs
    from workers.storage.tenants import Tenants

    if labels is not None:
        raise UsageError("give --labels FILE or --from-traffic, not both")
    if judge is None:
        raise UsageError("nobody knows the right answers of live prompts: name a judge by --judge-url")
    with transaction(engine) as session:
        found = LLMs(session).get(name)
        if found is None:
            raise UnknownLLMError(name, LLMs(session).names())
        tenants = Tenants(session).list()
    prompts = allowed_for(read_live(settings, tenants, most=most, share=share), found.llm)
    if not prompts:
        raise UsageError(
            f"no live prompt may be copied to {name}: there are none yet in {share:.2%} of the traffic, or "
            "their callers or tenants allow it none"
        )
    return [ToAsk(text=one.text, body=one.body, input_tokens=one.input_tokens, grade=None) for one in prompts]
