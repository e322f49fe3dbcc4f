"""Deferral curves as figures for a paper: PNG and SVG."""

from pathlib import Path
from typing import Any

from routing.evaluation import Evaluation
from routing.evaluation.bench import PROFILE_COSTS
from workers.errors import UsageError
from workers.evaluation.study import Findings

#: Okabe and Ito's colours, which differ for every kind of colour vision; the darker first, yellow left out.
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Tell curves apart where the print is grey; one more than colours, so that no pair comes twice.
LINES = ("-.", (0, (5, 2)), ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (1, 1)))
#: The two that readers look for, the same in every figure.
PROMINENT: dict[str, dict[str, Any]] = {
    "default": {"color": "#000000", "linestyle": "-", "linewidth": 2.2, "zorder": 4},
    "uniroute-kmeans": {"color": "#D55E00", "linestyle": (0, (4, 1.5)), "linewidth": 2.0, "zorder": 3},
}
#: Single LLMs and chance, drawn as horizontal lines at their quality.
LEVELS: dict[str, dict[str, Any]] = {
    "best-single": {"color": "#777777", "linestyle": (0, (6, 3)), "linewidth": 0.9},
    "cheapest": {"color": "#777777", "linestyle": (0, (1, 1.5)), "linewidth": 0.9},
    "random": {"color": "#777777", "linestyle": (0, (6, 2, 1, 2)), "linewidth": 0.9},
}
#: So far above every router that it would flatten their curves; it is in the table.
LEFT_OUT = ("oracle",)


def plot_findings(findings: Findings, folder: Path) -> list[Path]:
    """Write one figure per number of labels, ``DATASET-LABELS.png`` and ``.svg``; return the files.

    ``UsageError`` if matplotlib is not installed or the folder cannot be written.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  (only uniroute[evaluate] has it)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'uniroute[evaluate]'") from error
    # A bare Figure draws with Agg, whatever the backend of the process.
    files = []
    for evaluation in findings.evaluations:
        with mpl.rc_context({"font.size": 9, "svg.hashsalt": "uniroute", "svg.fonttype": "none"}):
            figure = Figure(figsize=(7.2, 4.2), layout="constrained")
            _draw(figure, evaluation, findings)
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                file = folder / f"{findings.dataset}-{evaluation.labels}.{kind}"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    figure.savefig(file, dpi=200, metadata=metadata)
                except OSError as error:
                    raise UsageError(f"--plot: {file} cannot be written: {error.strerror}") from error
                files.append(file)
    return files


def _draw(figure: Any, evaluation: Evaluation, findings: Findings) -> None:  # noqa: ANN401
    axes = figure.add_subplot()
    by_area = sorted(evaluation.methods.items(), key=lambda item: -item[1].area)
    routers = [item for item in by_area if item[0] not in (*LEVELS, *LEFT_OUT)]
    for place, (name, summary) in enumerate(routers):
        look = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": LINES[place % len(LINES)],
            "linewidth": 1.2,
        }
        axes.plot(
            PROFILE_COSTS,
            summary.profile,
            drawstyle="steps-post",
            label=f"{name} ({summary.area:.3f})",
            **PROMINENT.get(name, look),
        )
    for name, style in LEVELS.items():
        axes.axhline(evaluation.methods[name].peak, label=name, zorder=1, **style)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("Mean cost per prompt (0 = cheapest LLM of the pool, 1 = dearest)")
    axes.set_ylabel("Mean score")
    axes.set_title(
        f"{findings.dataset}: {evaluation.labels_used} labels per unseen LLM, {evaluation.trials} trials",
        loc="left",
        fontsize=9,
    )
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend_handles_labels()
    figure.legend(*legend, loc="outside right upper", title="method (Area)", frameon=False, handlelength=3.6)
