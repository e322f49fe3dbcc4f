"""Reads what a policy of kind ``cascade`` declares: whom it asks, and how sure an answer must be."""

from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import msgspec

from routing.errors import InvalidInputError
from workers.cascades import MAX_RULE_BYTES, MEASURES, CascadeSpec, Curve, Measure, Scorer
from workers.policies.bodies import Body

CASCADE_KEYS = ("llms", "accept", "abstain", "confidence", "calibration", "error_per_usd", "scorer")
_SCORER_KEYS = ("base_url", "model", "api_key", "input_price", "output_price", "timeout_s")
_CURVE_KEYS = ("confidences", "chances")
#: A scorer gives chances: they are taken at their word unless a curve says otherwise.
_AT_ITS_WORD = Curve(confidences=(0.0, 1.0), chances=(0.0, 1.0))
_GREATEST = 1e15
_LONGEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascading:
    """Whom a cascade may ask, and its rule."""

    #: In the order in which they are asked, where there is no ``spec.error_per_usd``.
    llms: tuple[str, ...]
    #: Without the candidates, which differ from prompt to prompt.
    spec: CascadeSpec


def read_cascade(body: Body) -> Cascading:
    """Read the keys of the kind.

    With ``error_per_usd`` whoever adds most to the answer for its cost is asked next; without it the LLMs are
    asked in their order, of which only two are a cascade that knows what it does: the second may be worse or
    dearer than the third. Raises ``InvalidInputError`` naming policy and key.
    """
    llms = body.llms("llms")
    if len(llms) < 2:  # noqa: PLR2004  # one to ask first, one to ask then
        raise body.error("llms must name two LLMs or more, the first to be asked first")
    weighed = body.number("error_per_usd", least=0.0, most=_GREATEST) if "error_per_usd" in body else None
    if weighed is None and len(llms) > 2:  # noqa: PLR2004  # as above
        raise body.error(
            "with more than two LLMs give error_per_usd, by which the next to be asked is chosen"
        )
    if weighed is None and "accept" not in body:
        raise body.error("give accept, the chance of being right from which an answer is taken")
    accept = body.number("accept", least=0.0, most=1.0) if "accept" in body else 1.0
    measure = cast(Measure, body.choice("confidence", MEASURES, default=MEASURES[0]))
    if ("scorer" in body) != (measure == "scorer"):
        raise body.error(
            "scorer says where the scorer is: `confidence: scorer` needs it, and nothing else does"
        )
    common, curves = _read_calibration(body, llms, measure, needed=llms if weighed is not None else llms[:-1])
    spec = CascadeSpec(
        accept_at=accept,
        abstain_below=body.number("abstain", least=0.0, most=accept) if "abstain" in body else 0.0,
        measure=measure,
        confidences=common.confidences,
        chances=common.chances,
        curves=curves,
        error_per_usd=weighed,
        scorer=_read_scorer(body.inner("scorer", keys=_SCORER_KEYS)) if measure == "scorer" else None,
    )
    _check(body, llms, spec)
    return Cascading(llms=llms, spec=spec)


def _read_calibration(
    body: Body, llms: tuple[str, ...], measure: Measure, *, needed: tuple[str, ...]
) -> tuple[Curve, dict[str, Curve]]:
    """Give the curve of all, and those that LLMs have of their own."""
    if "calibration" not in body:
        if measure != "scorer":
            raise body.error(
                "calibration is missing: give {confidences: [...], chances: [...]}, or that of each LLM by "
                "its name; a log probability is no chance of being right"
            )
        return _AT_ITS_WORD, {}
    if any(key in body.inner("calibration") for key in _CURVE_KEYS):
        return _read_curve(body.inner("calibration", keys=_CURVE_KEYS)), {}
    each = body.inner("calibration", keys=llms)
    if missing := [name for name in needed if name not in each]:
        raise body.error(f"calibration lacks {missing[0]}: what it says of its answers would be no chance")
    return _AT_ITS_WORD, {name: _read_curve(each.inner(name, keys=_CURVE_KEYS)) for name in each}


def _read_curve(body: Body) -> Curve:
    return Curve(confidences=body.numbers("confidences"), chances=body.numbers("chances"))


def _read_scorer(body: Body) -> Scorer:
    url, reference = body.text("base_url"), body.text("api_key") if "api_key" in body else ""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise body.error("base_url must begin with http:// or https:// and name a host, without a password")
    if reference and not reference.startswith(("env:", "file:/")):
        raise body.error("api_key must be env:NAME or file:/PATH: a key is referred to, never given")
    return Scorer(
        base_url=url,
        model=body.text("model"),
        api_key_ref=reference,
        input_usd_per_mtok=body.number("input_price", least=0.0, most=_GREATEST),
        output_usd_per_mtok=body.number("output_price", least=0.0, most=_GREATEST),
        timeout_s=body.number("timeout_s", above=0.0, most=_LONGEST_S) if "timeout_s" in body else 10.0,
    )


def _check(body: Body, llms: tuple[str, ...], spec: CascadeSpec) -> None:
    try:
        _ = spec.rule, [spec.calibration(name) for name in llms]
    except InvalidInputError as error:
        raise body.error(str(error)) from error
    if (size := len(msgspec.json.encode(spec))) > MAX_RULE_BYTES:
        raise body.error(
            f"calibration takes {size} bytes, and a dispatch has room for {MAX_RULE_BYTES}: give fewer knots"
        )
