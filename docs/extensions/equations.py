"""Equations as outlines in SVG, drawn when the site is built: a browser needs no script, no font and no network.

Matplotlib's mathtext draws them. The outlines have the text's colour and size; the alternative text is the TeX source.
"""

from html import escape

import numpy as np
from docutils.nodes import SkipNode
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath

FONT = FontProperties(math_fontfamily="stix", size=100)
LETTERS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z"}
SIZE = 1.15  # em; letters of the font are small beside those of the page
FLIP = np.tile([1, -1], 3)  # up is down in SVG
EDGE = 2


def svg(tex: str) -> str:
    """An equation as an `svg` element that stands on the line of the text around it."""
    text = f"${' '.join(tex.split())}$"
    drawn = TextToPath()
    width, height, descent = drawn.get_text_width_height_descent(text, FONT, ismath=True)
    points, codes = drawn.get_text_path(FONT, text, ismath=True)
    steps = []
    for corners, code in Outline(points, codes).iter_segments(simplify=False, curves=True):
        numbers = () if code == Outline.CLOSEPOLY else corners * FLIP[: len(corners)]
        steps.append(LETTERS[code] + " ".join(f"{value:.1f}" for value in numbers))
    box = f"{-EDGE} {-(height - descent) - EDGE:.1f} {width + 2 * EDGE:.1f} {height + 2 * EDGE:.1f}"
    em = SIZE / 100
    style = f"width:{(width + 2 * EDGE) * em:.3f}em;height:{(height + 2 * EDGE) * em:.3f}em;"
    style += f"vertical-align:{-(descent + EDGE) * em:.3f}em"
    label = escape(" ".join(tex.split()), quote=True)
    path = f'<path fill="currentColor" d="{"".join(steps)}"/>'
    return f'<svg class="math" role="img" aria-label="{label}" viewBox="{box}" style="{style}">{path}</svg>'


def _visit(self, node):
    drawn = svg(node.astext())
    self.body.append(f'<div class="math">{drawn}</div>' if node.tagname == "math_block" else drawn)
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("outlines", (_visit, None), (_visit, None))
    return {"parallel_read_safe": True}
