"""Draws the picture of the README from the summary of the main job.

usage: docs/figures/draw.py out/demo/summary.json docs/figures/head_to_head.svg

A panel a task: reward of the averaged weights against evaluations of the model, the median over
seeds with the range of all seeds behind it. A run that ended early, since it had settled, keeps its
last reward. A panel ends some way behind the cost at which the slower median has settled.
"""

import json
import pathlib
import statistics
import sys

COLOURS = {"NFT": "#0f6a8b", "FlowGRPO": "#c8553d", "NFT, no negatives": "#9aa5ae"}
TITLES = {
    "ring": "ring",
    "checkerboard": "checkerboard",
    "two_moons": "two moons to one",
    "ladder_2": "ladder, 2 dimensions",
    "ladder_8": "ladder, 8",
    "ladder_32": "ladder, 32",
    "ladder_128": "ladder, 128",
    "hidden_ring_8": "ring hidden in 8",
}
WIDTH, HEIGHT, COLUMNS = 232, 150, 4
LEFT, TOP, GAP_X, GAP_Y = 44, 62, 26, 62
POINTS = 120


def reward_at(curve, evaluations):
    """The reward of a run at a cost, linear between evaluations, constant behind the last."""
    before = curve[0]
    for point in curve[1:]:
        if point[1] >= evaluations:
            share = (evaluations - before[1]) / (point[1] - before[1])
            return before[3] + share * (point[3] - before[3])
        before = point
    return before[3]


def nice_limit(value):
    """The least of 1, 2, 5 times a power of ten that is not below a value."""
    power = 10 ** (len(str(int(value))) - 1)
    return next(m * power for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if m * power >= value)


def shown(evaluations):
    if evaluations == 0:
        return "0"
    return f"{evaluations / 1e3:g} k"


def median_at(runs, evaluations):
    return statistics.median(reward_at(run["curve"], evaluations) for run in runs)


def settled_at(runs):
    """The cost from which on the median stays within 3 % of where it ends."""
    end = max(run["curve"][-1][1] for run in runs)
    costs = [end * k / POINTS for k in range(POINTS + 1)]
    last = median_at(runs, end)
    outside = [c for c in costs if abs(median_at(runs, c) - last) > 0.03]
    return max(outside, default=0)


def path(points):
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def panel(name, task, x0, y0):
    methods = {n: m["runs"] for n, m in task["methods"].items() if m["runs"]}
    limit = nice_limit(1.4 * max(settled_at(methods[m]) for m in ("NFT", "FlowGRPO")))
    to_x = lambda e: x0 + WIDTH * e / limit
    to_y = lambda r: y0 + HEIGHT * (1 - r)
    parts = [f'<text class="title" x="{x0}" y="{y0 - 10}">{TITLES.get(name, name)}</text>']
    for reward in (0, 0.25, 0.5, 0.75, 1):
        y = to_y(reward)
        parts.append(f'<path class="grid" d="M{x0},{y:.1f} h{WIDTH}"/>')
        if (x0 - LEFT) < 1 and reward in (0, 0.5, 1):
            parts.append(f'<text class="tick" x="{x0 - 7}" y="{y + 4:.1f}" '
                         f'text-anchor="end">{reward:g}</text>')
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        parts.append(f'<text class="tick" x="{x0 + WIDTH * share}" y="{y0 + HEIGHT + 16}" '
                     f'text-anchor="{anchor}">{shown(limit * share)}</text>')
    for method in reversed(list(methods)):
        colour = COLOURS.get(method, "#666")
        costs = [limit * k / POINTS for k in range(POINTS + 1)]
        end = max(run["curve"][-1][1] for run in methods[method])
        costs = [c for c in costs if c < end] + [min(end, limit)]
        rewards = [[reward_at(run["curve"], c) for run in methods[method]] for c in costs]
        upper = [(to_x(c), to_y(max(r))) for c, r in zip(costs, rewards)]
        lower = [(to_x(c), to_y(min(r))) for c, r in zip(costs, rewards)]
        middle = [(to_x(c), to_y(statistics.median(r))) for c, r in zip(costs, rewards)]
        parts.append(f'<path d="{path(upper + lower[::-1])} Z" fill="{colour}" opacity="0.16"/>')
        parts.append(f'<path d="{path(middle)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts


def figure(summary):
    tasks = list(summary["tasks"].items())
    rows = -(-len(tasks) // COLUMNS)
    width = LEFT + COLUMNS * WIDTH + (COLUMNS - 1) * GAP_X + 16
    height = TOP + rows * HEIGHT + (rows - 1) * GAP_Y + 46
    parts = []
    for k, (name, task) in enumerate(tasks):
        x0 = LEFT + (k % COLUMNS) * (WIDTH + GAP_X)
        y0 = TOP + (k // COLUMNS) * (HEIGHT + GAP_Y)
        parts += panel(name, task, x0, y0)
    methods = list(tasks[0][1]["methods"])
    x = LEFT
    for method in methods:
        parts.append(f'<path d="M{x},20 h22" stroke="{COLOURS.get(method, "#666")}" '
                     f'stroke-width="3"/>')
        parts.append(f'<text class="legend" x="{x + 29}" y="24.5">{method}</text>')
        x += 60 + 7.2 * len(method)
    seeds = len(tasks[0][1]["seeds"])
    parts.append(f'<text class="tick" x="{LEFT}" y="{height - 8}">reward against evaluations of '
                 f'the model for one sample (a backward pass counts as two); median and range of '
                 f'{seeds} seeds</text>')
    style = ("text{font-family:'Segoe UI','Helvetica Neue','DejaVu Sans',Arial,sans-serif;"
             "fill:#1c2733} .title{font-size:13.5px;font-weight:600} "
             ".tick{font-size:11.5px;fill:#5a6b7b} .legend{font-size:13px} "
             ".grid{stroke:#d9e1e8;stroke-width:1;fill:none}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}"><style>{style}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n")


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    summary = json.loads(pathlib.Path(arguments[0]).read_text(encoding="utf-8"))
    pathlib.Path(arguments[1]).write_text(figure(summary), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
