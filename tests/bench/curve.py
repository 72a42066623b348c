"""The picture of models that run with less memory than they have: new tokens a second by memory, one line a program."""
import math

import chart

WIDTH, HEIGHT, LEFT, TOP = 620, 300, 60, 70
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
STYLE = "\n  .our-line { stroke: #0969da } .peer-line { stroke: #8c959f } polyline { fill: none; stroke-width: 2 }\n"


def curve(tight: dict, names, note: str) -> str:
    """`tight`: memory as a part of the model -> program -> {"decode": tokens/s}; the scale of rates is logarithmic."""
    limits = [float(limit) for limit in tight]
    rates = {name: [(limit, (tight[str(limit)][name] or {}).get("decode")) for limit in limits] for name in names}
    known = [rate for points in rates.values() for _, rate in points if rate]
    low, high = math.log(min(known) / 1.3), math.log(max(known) * 1.3)

    def x(limit):
        return LEFT + (WIDTH - LEFT - 130) * (limit - min(limits)) / (max(limits) - min(limits))

    def y(rate):
        return TOP + (HEIGHT - TOP) * (high - math.log(rate)) / (high - low)

    out = [chart.text(0, 16, "New tokens a second by memory", "title"),
           chart.text(0, 38, "memory as a part of the plain model's bytes, page cache included", "small")]
    for step in STEPS:
        if low < math.log(step) < high:
            out += [f'<line class="axis" x1="{LEFT}" x2="{x(max(limits)):.1f}" y1="{y(step):.1f}" y2="{y(step):.1f}"/>',
                    chart.text(LEFT - 34, round(y(step)) + 4, f"{step:g}", "small")]
    out += [chart.text(x(limit) - 10, HEIGHT + 18, f"{limit:g}", "small") for limit in limits]
    for name, points in rates.items():
        points = [(x(limit), y(rate)) for limit, rate in points if rate]
        if not points:
            continue
        kind = "our-line" if name.startswith("bigsmall") else "peer-line"
        dashed = ' stroke-dasharray="5 4"' if name == "accelerate" else ""
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline class="{kind}"{dashed} points="{joined}"/>')
        out.append(chart.text(points[-1][0] + 8, round(points[-1][1]) + 4, name, "ours" if kind == "our-line" else ""))
    out.append(chart.text(0, HEIGHT + 42, note, "small"))
    inner = "\n".join(out)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -6 {WIDTH + 20} {HEIGHT + 60}" width="{WIDTH}" '
            'role="img">\n<title>New tokens a second by memory</title>\n'
            f"<style>{chart.STYLE}{STYLE}</style>\n{inner}\n</svg>\n")
