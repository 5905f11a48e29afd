#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Draws the figures of `run.py --json FILE`: requests a second of worker CPU,
as a share of plain nginx's.

    plot.py FILE > docs/performance.svg
"""

import html
import json
import sys

COLOURS = {"module": "#2a6f4e", "floor": "#9aa5b1", "lua": "#b4552d"}
NAMES = {"module": "the module", "floor": "plain nginx and a write()",
         "lua": "the same in Lua"}
LEFT, WIDTH, BAR, GAP, TOP = 230, 420, 12, 14, 46


def draw(results):
    out = []
    y = TOP
    for case, r in results.items():
        if ": " in case or case in ("first event", "upload"):
            continue
        bars = [(n, r["ratio"] if n == "module"
                 else r["plain"]["cpu"] / r[n]["cpu"])
                for n in COLOURS if n in r]
        middle = y + len(bars) * BAR / 2 + 4
        out.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" '
                   f'text-anchor="end">{html.escape(case)}</text>')
        for name, share in bars:
            width = min(share, 1.1) * WIDTH
            out.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" '
                       f'height="{BAR - 2}" fill="{COLOURS[name]}"/>')
            out.append(f'<text x="{LEFT + width + 5:.1f}" y="{y + BAR - 3}" '
                       f'class="n">{share:.2f}</text>')
            y += BAR
        y += GAP

    x = LEFT
    legend = []
    for name, colour in COLOURS.items():
        legend.append(f'<rect x="{x}" y="14" width="10" height="10" '
                      f'fill="{colour}"/><text x="{x + 15}" y="23">'
                      f'{NAMES[name]}</text>')
        x += 30 + 7 * len(NAMES[name])

    line = LEFT + WIDTH
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{line + 60}" '
        f'height="{y}" viewBox="0 0 {line + 60} {y}" '
        'font-family="sans-serif" font-size="12">',
        '<style>.n { font-size: 10px; fill: #555 }</style>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *legend,
        f'<line x1="{line}" y1="{TOP - 8}" x2="{line}" y2="{y - GAP}" '
        'stroke="#333" stroke-dasharray="3 3"/>',
        f'<text x="{line}" y="{TOP - 12}" text-anchor="middle" class="n">'
        'plain nginx</text>',
        *out, "</svg>"]) + "\n"


def main():
    with open(sys.argv[1]) as f:
        print(draw(json.load(f)), end="")


if __name__ == "__main__":
    main()
