"""The few shapes of SVG that pictures are made of, and the colors they share: strings, with no library."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

# One color a rank. Each carries near-black text, and stands out as a line on white and on near-black alike.
_RANKS = ("#e69f00", "#56b4e9", "#2fb389", "#d98bb8", "#e2703a", "#8c9eff", "#a3b83b", "#9e9e9e")

_STYLE = """
text { font-family: ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif; font-size: 12px; }
.ground { fill: #ffffff; } .ink { fill: #1b1f24; } .faint { fill: #59636e; } .on { fill: #14181d; }
.idle { fill: #f1f3f5; } .mixed { stroke: #59636e; }
.title { font-size: 16px; font-weight: 600; } .small { font-size: 11px; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } .ink { fill: #e6edf3; } .faint { fill: #9aa4af; }
.idle { fill: #1c2128; } .mixed { stroke: #9aa4af; }
}
""".strip()


def color(rank: int) -> str:
    """The color of a rank: eight chosen ones, then hues by the golden angle."""
    if rank < len(_RANKS):
        return _RANKS[rank]
    red, green, blue = colorsys.hls_to_rgb(rank * 0.618034 % 1, 0.62, 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def page(width: float, height: float, parts: Sequence[str], *, title: str) -> str:
    """A whole picture, readable on a light and on a dark page: it brings its own ground in both."""
    size = f'width="{number(width)}" height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            rectangle(0, 0, width, height, style="ground", corner=8),
            *parts,
            "</svg>\n",
        ]
    )


def text(
    x: float, y: float, words: str, *, style: str = "ink", anchor: str = "start", size: float | None = None
) -> str:
    """Words whose baseline is at y."""
    own_size = f' style="font-size: {number(size)}px"' if size else ""
    place = f'x="{number(x)}" y="{number(y)}" class="{style}" text-anchor="{anchor}"{own_size}'
    return f"<text {place}>{escape(words)}</text>"


def rectangle(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str | None = None,
    style: str | None = None,
    corner: float = 0,
) -> str:
    """A filled rectangle, by a color or by a class of the style sheet."""
    paint = f'fill="{fill}"' if fill else f"class={quoteattr(style or 'ink')}"
    round_corner = f' rx="{number(corner)}"' if corner else ""
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f"<rect {place}{round_corner} {paint}/>"


def arrow(points: Sequence[tuple[float, float]], *, stroke: str | None, width: float, dashed: bool = False) -> str:
    """A line through `points` with a head at the last one; in a neutral color where `stroke` is None."""
    (x0, y0), (x, y) = points[-2:]
    length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1e-9)
    along = ((x - x0) / length, (y - y0) / length)
    head = 4 + 2 * width
    back = (x - head * along[0], y - head * along[1])
    side = (-along[1] * head / 2, along[0] * head / 2)
    corners = [(x, y), (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])]
    path = "M" + " L".join(f"{number(a)} {number(b)}" for a, b in [*points[:-1], back])
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    line = f'fill="none" stroke="{stroke}"' if stroke else 'fill="none" class="mixed"'
    fill = f'fill="{stroke}"' if stroke else 'class="faint"'
    places = " ".join(f"{number(a)},{number(b)}" for a, b in corners)
    return f'<path d="{path}" {line} stroke-width="{number(width)}"{dash}/><polygon points="{places}" {fill}/>'


def number(value: float) -> str:
    """At most two decimals, and none that is zero."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
