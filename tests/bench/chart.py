"""The picture: size and decoding rate on one core, by dtype; readable on light and on dark ground."""
from html import escape

import table

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 16px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 }
  .small { font-size: 11px; fill: #57606a } .ours { font-weight: 600 }
  .peer-bar { fill: #8c959f } .our-bar { fill: #0969da } .light { opacity: .45 } .axis { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .peer-bar { fill: #7d8590 } .our-bar { fill: #4493f8 } .axis { stroke: #3d444d }
  }
"""
WIDTH, LINE, NAME, SIZE_BAR, RATE_BAR = 860, 20, 140, 230, 300
SIZE_AT, RATE_AT = NAME + 20, NAME + SIZE_BAR + 90


def bar(x, y, width, kind, light=False) -> str:
    return (f'<rect class="{kind}{" light" if light else ""}" x="{x}" y="{y}" width="{max(width, 1):.1f}" '
            f'height="12" rx="2"/>')


def text(x, y, what, kind="") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(what)}</text>'


def panel(rows: list, y: int, fastest: float) -> tuple[list, int]:
    """A line for each contestant: its name, the bar of its size, the bars of its rates."""
    first = rows[0]
    out = [text(0, y, f"{first['dtype']}: {first['model']}, {first['bytes'] / 1e6:.0f} MB", "panel")]
    y += 10
    top = y
    for row in rows:
        kind = "our-bar" if table.is_ours(row) else "peer-bar"
        out.append(text(0, y + 11, row["name"], "ours" if table.is_ours(row) else ""))
        ratio = row["ratio"]
        out += [bar(SIZE_AT, y, SIZE_BAR * min(ratio, 1), kind),
                text(SIZE_AT + SIZE_BAR * min(ratio, 1) + 5, y + 11, f"{100 * ratio:.1f} %", "small")]
        fresh = table.value(row, "decode_fresh_gbps") or 0
        best = max(fresh, table.value(row, "decode_window_gbps") or 0)
        scale = RATE_BAR / fastest
        if best > fresh:
            out.append(bar(RATE_AT, y, best * scale, kind, light=True))
        out += [bar(RATE_AT, y, fresh * scale, kind),
                text(RATE_AT + best * scale + 5, y + 11, table.figure("", best), "small")]
        y += LINE
    for x in (SIZE_AT, RATE_AT):
        out.append(f'<line class="axis" x1="{x - .5}" x2="{x - .5}" y1="{top - 3}" y2="{y - 4}"/>')
    return out, y + 22


def chart(found: dict) -> str:
    """One panel for each dtype, of its first model; memcpy and what saves nothing are left out."""
    panels = {}
    for _, cores, rows in table.groups(found):
        shown = [row for row in rows if row.get("ratio", 1) < 0.99]
        if cores == "one" and shown:
            panels.setdefault(rows[0]["dtype"], shown)
    rates = [table.value(row, key) or 0 for rows in panels.values() for row in rows
             for key in ("decode_fresh_gbps", "decode_window_gbps")]
    body, y = [text(0, 16, "Lossless model compression on one core", "title"),
               text(SIZE_AT, 40, "size, % of the original (shorter is better)", "small"),
               text(RATE_AT, 40, "decoding, GB/s (longer is better):", "small"),
               text(RATE_AT, 55, "full colour into fresh pages, pale into a warm window", "small")], 78
    for rows in panels.values():
        lines, y = panel(rows, y, max(rates) or 1)
        body += lines
    m = found["machine"]
    body.append(text(0, y, f"{m['cpu']}, {found['date']}, medians of {found['rounds']} rounds; "
                           "not shown: memcpy and what saves less than 1 %", "small"))
    inner = "\n".join(body)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -6 {WIDTH} {y + 20}" width="{WIDTH}" '
            'role="img">\n<title>Size and decoding rate by dtype, one core</title>\n'
            f"<style>{STYLE}</style>\n{inner}\n</svg>\n")
