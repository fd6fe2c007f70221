"""Draws the pictures of the page on scenes from the summaries of the program.

usage: docs/figures/draw_scenes.py compare out/scenes_compare/summary.json FILE.svg
       docs/figures/draw_scenes.py ablations out/scenes_ablations/summary.json FILE.svg

A panel holds strict scores against a cost, the median over seeds with the range of all seeds behind
it.
"""

import json
import pathlib
import statistics
import sys

from draw import nice_limit, path

COLOURS = ["#0f6a8b", "#c8553d", "#5b8c3a", "#b08a1e", "#7a5195", "#9aa5ae", "#2a9d8f"]
CATEGORIES = ["single", "two", "counting", "colours", "position", "attribute"]
WIDTH, HEIGHT, COLUMNS = 300, 170, 3
LEFT, GAP_X, GAP_Y = 44, 30, 64
POINTS = 120


def at(curve, axis, cost, score):
    """A score of a run at a cost, linear between evaluations, constant behind the last."""
    before = curve[0]
    for point in curve[1:]:
        if point[axis] >= cost:
            share = (cost - before[axis]) / max(point[axis] - before[axis], 1e-9)
            return (1 - share) * before["strict"][score] + share * point["strict"][score]
        before = point
    return before["strict"][score]


def shown(cost):
    return f"{cost / 1e6:g} M" if cost >= 1e6 else f"{cost / 1e3:g} k" if cost >= 1e3 else f"{cost:g}"


def curves(runs, colour, axis, score, limit, to_x, to_y):
    if not runs:
        return []
    end = min(limit, max(run["curve"][-1][axis] for run in runs))
    costs = [end * k / POINTS for k in range(POINTS + 1)]
    values = [[at(run["curve"], axis, cost, score) for run in runs] for cost in costs]
    upper = [(to_x(c), to_y(max(v))) for c, v in zip(costs, values)]
    lower = [(to_x(c), to_y(min(v))) for c, v in zip(costs, values)]
    middle = [(to_x(c), to_y(statistics.median(v))) for c, v in zip(costs, values)]
    return [f'<path d="{path(upper + lower[::-1])} Z" fill="{colour}" opacity="0.14"/>',
            f'<path d="{path(middle)}" fill="none" stroke="{colour}" stroke-width="1.8"/>']


def panel(x0, y0, title, entries, axis, score, limit, names_inside):
    to_x = lambda cost: x0 + WIDTH * cost / limit
    to_y = lambda value: y0 + HEIGHT * (1 - value)
    parts = [f'<text class="title" x="{x0}" y="{y0 - 10}">{title}</text>']
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{x0},{to_y(value):.1f} h{WIDTH}"/>')
        parts.append(f'<text class="tick" x="{x0 - 7}" y="{to_y(value) + 4:.1f}" '
                     f'text-anchor="end">{value:g}</text>')
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        parts.append(f'<text class="tick" x="{x0 + WIDTH * share}" y="{y0 + HEIGHT + 16}" '
                     f'text-anchor="{anchor}">{shown(limit * share)}</text>')
    for number, (name, runs) in reversed(list(enumerate(entries))):
        colour = COLOURS[number % len(COLOURS)]
        parts += curves(runs, colour, axis, score, limit, to_x, to_y)
        if names_inside:
            y = y0 + HEIGHT - 8 - 14 * (len(entries) - 1 - number)
            parts.append(f'<text class="tick" x="{x0 + WIDTH - 6}" y="{y}" text-anchor="end" '
                         f'style="fill:{colour}">{name}</text>')
    return parts


def figure(panels, legend, caption, names_inside):
    top = 40 + 22 * -(-len(legend) // 3)
    rows = -(-len(panels) // COLUMNS)
    width = LEFT + COLUMNS * WIDTH + (COLUMNS - 1) * (GAP_X + 14) + 16
    height = top + rows * HEIGHT + (rows - 1) * GAP_Y + 46
    parts = []
    for k, one in enumerate(panels):
        x0 = LEFT + (k % COLUMNS) * (WIDTH + GAP_X + 14)
        y0 = top + (k // COLUMNS) * (HEIGHT + GAP_Y)
        parts += panel(x0, y0, *one, names_inside)
    for k, name in enumerate(legend):
        x, y = LEFT + (k % 3) * 330, 20 + 22 * (k // 3)
        parts.append(f'<path d="M{x},{y} h22" stroke="{COLOURS[k]}" stroke-width="3"/>')
        parts.append(f'<text class="legend" x="{x + 29}" y="{y + 4.5}">{name}</text>')
    parts.append(f'<text class="tick" x="{LEFT}" y="{height - 8}">{caption}</text>')
    style = ("text{font-family:'Segoe UI','Helvetica Neue','DejaVu Sans',Arial,sans-serif;"
             "fill:#1c2733} .title{font-size:13.5px;font-weight:600} "
             ".tick{font-size:11.5px;fill:#5a6b7b} .legend{font-size:13px} "
             ".grid{stroke:#d9e1e8;stroke-width:1;fill:none}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}"><style>{style}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n")


def most(entries, axis):
    return max(run["curve"][-1][axis] for _, runs in entries for run in runs)


def compare(summary):
    entries = [(entry["name"], entry["runs"]) for entry in summary["methods"]]
    pair = entries[:2]
    limit = nice_limit(most(pair, "evaluations"))
    panels = [("overall, against evaluations", entries, "evaluations", "overall", limit),
              ("overall, against epochs", entries, "epoch", "overall", most(entries, "epoch")),
              ("overall, against seconds on one core", entries, "seconds", "overall",
               nice_limit(most(pair, "seconds")))]
    for category in CATEGORIES:
        panels.append((f"{category}, against evaluations", entries, "evaluations", category, limit))
    return figure(panels, [name for name, _ in entries],
                  "strict score without guidance; a backward pass counts as two evaluations; median "
                  f"and range of {len(entries[0][1])} seeds", False)


def ablations(summary):
    recipe = [(entry["name"], entry["runs"]) for entry in summary["recipe"]]
    panels = []
    for name, entries in summary.items():
        if name == "recipe":
            continue
        shown_entries = recipe + [(entry["name"], entry["runs"]) for entry in entries]
        panels.append((name, shown_entries, "epoch", "overall", most(shown_entries, "epoch")))
    return figure(panels, [], "strict score without guidance against epochs; median and range of "
                  f"{len(recipe[0][1])} seeds", True)


def main(arguments):
    kinds = {"compare": compare, "ablations": ablations}
    if len(arguments) != 3 or arguments[0] not in kinds:
        sys.exit(__doc__)
    summary = json.loads(pathlib.Path(arguments[1]).read_text(encoding="utf-8"))
    pathlib.Path(arguments[2]).write_text(kinds[arguments[0]](summary), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
