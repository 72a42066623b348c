"""The page with the tables, from what peers.py measured."""
import wrapped

INTO = {True: "a buffer of the caller's: window, resident, fresh",
        False: "objects of its own: fresh; for the window each is dropped at once",
        None: "arrays of its own: fresh", "file": "a file: fresh"}
ORDER = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")
COLUMNS = (("size", "ratio"), ("encode", "encode_gbps"), ("window", "decode_window_gbps"),
           ("resident", "decode_resident_gbps"), ("fresh", "decode_fresh_gbps"),
           ("encode CPU s/GB", "encode_cpu_s_per_gb"), ("decode CPU s/GB", "decode_window_cpu_s_per_gb"),
           ("peak MB", "peak_mb"))
COMPARED = (("size", "ratio", False), ("encoding", "encode_gbps", True),
            ("decoding into a window", "decode_window_gbps", True),
            ("decoding into resident memory", "decode_resident_gbps", True),
            ("decoding into fresh pages", "decode_fresh_gbps", True))


def is_ours(row: dict) -> bool:
    return row["name"].startswith("bigsmall ")


def value(row: dict, key: str) -> float | None:
    """The median of what was measured."""
    found = row.get(key)
    return found[1] if isinstance(found, list) else found


def figure(key: str, number: float | None) -> str:
    if number is None:
        return ""
    if key == "ratio":
        return f"{100 * number:.2f} %"
    if key == "peak_mb":
        return f"{number:.0f}"
    return f"{number:.2g}" if number < 0.1 else f"{number:.2f}" if number < 10 else f"{number:.1f}"


def groups(found: dict) -> list:
    """(model, cores, rows): one core before all cores, BF16 before the others, larger models first."""
    by = {}
    for row in found["rows"]:
        by.setdefault((row["model"], row["cores"]), []).append(row)

    def place(key):
        row = by[key][0]
        dtype = ORDER.index(row["dtype"]) if row["dtype"] in ORDER else len(ORDER)
        # the real models before the synthetic one, the tiny one last
        return key[1] != "one", dtype, row["bytes"] < 10e6, "synthetic" in key[0], key[0]
    return [(model, cores, by[model, cores]) for model, cores in sorted(by, key=place)]


def note(row: dict) -> str:
    if row.get("exact", True):
        return ""
    return " (tensors exact, the file is not)" if row.get("tensors_exact") else " (**NOT EXACT**)"


def rows_of(rows: list) -> list:
    lines = ["| | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for row in rows:
        name = f"**{row['name']}**" if is_ours(row) else row["name"]
        if "error" in row:
            reason = row["error"].replace("|", "/").replace("<", "&lt;")
            lines.append(f"| {name}: {reason} |" + " |" * len(COLUMNS))
        else:
            cells = " | ".join(figure(key, value(row, key)) for _, key in COLUMNS)
            lines.append(f"| {name}{note(row)} | {cells} |")
    return lines


def who_is_ahead(rows: list) -> str:
    """In what which peer does better than the best of our profiles, flattering or not."""
    said = []
    for title, key, more_is_better in COMPARED:
        sign = 1 if more_is_better else -1
        ours = [value(row, key) for row in rows if is_ours(row) and value(row, key) is not None]
        if not ours:
            continue
        best = max(sign * number for number in ours)
        ahead = [row for row in rows if not is_ours(row) and row["name"] != "memcpy"
                 and value(row, key) is not None and sign * value(row, key) > best]
        if ahead:
            ahead.sort(key=lambda row: -sign * value(row, key))
            names = ", ".join(f"{row['name']} {figure(key, value(row, key))}" for row in ahead)
            said.append(f"{title} ({names}; our best {figure(key, abs(best))})")
    return "Ahead of all our profiles: " + ("; ".join(said) if said else "none") + "."


def settings(found: dict) -> list:
    """One line for each contestant: version, settings, threads, what its API decodes into."""
    lines = ["| | version | settings | threads | decodes into |", "|---|---|---|---|---|"]
    for name, who in found["contestants"].items():
        cells = (name, who["version"], who["settings"], who["threads_are"], INTO[who["into"]])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def introduction(found: dict) -> list:
    m = found["machine"]
    return [
        f"Measured on {found['date']} by `{found['command']}`: {m['cpu']}, {m['cores']} cores{m['caches']}, "
        f"{m['memory']}, {m['system']}, Python {found['python']}. All took turns on the same data, "
        f"{times(found['rounds'], 'round')}, every turn a process of its own. In a turn each figure is the "
        f"median of {times(found['runs'], 'run')}; here is the median of the rounds, and "
        "[peers.json](peers.json) has the least and the most beside it.", "",
        "Sizes are percent of the whole file, rates original bytes by the clock, 1 GB = 10^9 bytes. "
        "*window*: decoding into a small buffer that is used again; *resident*: into memory of the model's "
        "size that was used before; *fresh*: into pages that are new from the system. An empty field is "
        "something that the API does not offer. CPU seconds are those of all threads for a GB, of decoding "
        "that into the window. "
        "Peak memory is that of a process with the original, the compressed and one decoded copy in it, less "
        "interpreter and libraries. What each decoded was compared with the original and was the same, byte "
        "for byte, where nothing else is said.", ""]


def page(found: dict) -> str:
    text = ["# Side by side with other programs", "",
            "![Size and decoding rate by dtype, one core](peers.svg)", "", *introduction(found)]
    texts = {"one": "One core, one thread",
             "all": f"All cores, {times(found['threads'].get('all', 1), 'thread')}"}
    before = None
    for model, cores, rows in groups(found):
        if cores != before:
            text += [f"## {texts[cores]}", ""]
            before = cores
        text += [f"### {rows[0]['dtype']}: {model}, {rows[0]['bytes'] / 1e6:.1f} MB", "", *rows_of(rows), "",
                 who_is_ahead(rows), ""]
    text += ["## Who and how", "",
             "Peers get the file as independent pieces of 4 MiB; with the whole at once zipnn and openzl are "
             "slower. A model of less than that is one piece, which several threads cannot share. A peer's "
             "turn includes what its Python binding costs; ours does not go through Python. python-bigsmall "
             "is another program of our name, on PyPI; its decoding is of a file, into arrays.", "",
             *settings(found), ""]
    return wrapped.wrapped("\n".join(text))
