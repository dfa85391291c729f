"""A run's curves as SVG: loss and accuracy, of the images learned and of those held out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def curves(title: str, history: Sequence[Any]) -> str:
    """Two charts side by side, drawn by matplotlib; the same history gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasSVG(figure)
    epochs = [line.epoch for line in history]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        axes.plot(epochs, [getattr(line, what) for line in history], ".-", label="learned")
        axes.plot(epochs, [getattr(line, f"test_{what}") for line in history], ".-", label="held out")
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
