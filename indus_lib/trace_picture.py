"""A matplotlib figure that shows itself.

Figures here are made without pyplot, and IPython only learns to draw figures when pyplot or `%matplotlib inline` is
loaded: without either, `display(figure)` prints `<Figure size ...>` and the picture twin is lost.
"""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DPI = 100


class Picture(Figure):
    """A `Figure` with a PNG for any notebook front end."""

    def _repr_png_(self) -> bytes:
        """PNG bytes, as IPython asks for them."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()
