"""``uniroute policy calibrate``: from answers whose score is known to the calibration of a cascade."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from workers.cli.console import AsJson, print_json
from workers.errors import UsageError

Answers = Annotated[
    Path,
    typer.Argument(
        help='JSON lines: {"answer": a completion, or "confidence": a number, "score": 0..1, "llm": a name}.'
    ),
]
Confidence = Annotated[str, typer.Option(help="mean-logprob, first-margin or scorer, as in the policy.")]
Knots = Annotated[int, typer.Option(min=2, max=200, help="The most points of a curve.")]


def calibrate(
    file: Answers, *, confidence: Confidence = "mean-logprob", knots: Knots = 12, as_json: AsJson = False
) -> None:
    """Fit, by isotonic regression, the chance that an answer is right to how sure its LLM was of it.

    Lines that name an LLM get a curve for each. Answers are replies' values as they came; of a scorer give
    its number as the confidence.
    """
    import yaml

    from workers.cascades import MEASURES
    from workers.cli.files import read_answers

    if confidence not in MEASURES:
        raise UsageError(f"--confidence is {confidence!r}: known are {', '.join(MEASURES)}")
    found, silent = _confidences(read_answers(file), confidence)
    if not found:
        raise UsageError(f"{file}: none of its answers tells how sure its LLM was (log probabilities)")
    if "" in found and len(found) > 1:
        raise UsageError(f"{file}: name the LLM of each answer, or of none")
    curves = {llm: _fit(pairs, knots) for llm, pairs in sorted(found.items())}
    calibration: Any = curves.get("", curves)
    if as_json:
        used = sum(map(len, found.values()))
        print_json({"calibration": calibration, "answers": used, "silent": silent})
        return
    typer.echo(
        yaml.safe_dump({"calibration": calibration}, sort_keys=False, default_flow_style=None), nl=False
    )
    if silent:
        typer.echo(f"# Left out, for they tell nothing of how sure their LLM was: {silent}.")


def _confidences(answers: Any, measure: Any) -> tuple[dict[str, list[tuple[float, float]]], int]:  # noqa: ANN401
    """Give confidence and score of each answer by LLM, and how many tell nothing."""
    from workers.executor.cascades import read_confidence

    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    silent = 0
    for one in answers:
        told = one.confidence
        if told is None:
            told = read_confidence(measure, bytes(one.answer))
        if told is None:
            silent += 1
        else:
            found[one.llm].append((told, one.score))
    return dict(found), silent


def _fit(pairs: list[tuple[float, float]], knots: int) -> dict[str, list[float]]:
    import numpy as np

    from routing.policies.cascade import fit_calibration

    confidences, scores = np.array(pairs, dtype=np.float64).T
    fitted = fit_calibration(confidences, scores)
    kept = np.unique(np.linspace(0, len(fitted.confidences) - 1, knots).round().astype(int))
    return {
        "confidences": [round(float(value), 4) for value in fitted.confidences[kept]],
        "chances": [round(float(value), 4) for value in fitted.chances[kept]],
    }
