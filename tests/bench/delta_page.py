"""The page about fine-tunes as differences, from what deltas.py measured."""
import table
import wrapped

OURS, ALONE, PACKAGE, BITX = "bigsmall", "bigsmall alone", "python-bigsmall", "bitx"
TITLES = {BITX: "BitX"}
COLUMNS = (("encode s", "encode_s"), ("CPU s", "encode_cpu_s"), ("decode s", "decode_s"), ("CPU s", "decode_cpu_s"))
# noise -> at most this much of the bytes of (the Python package, BitX)
TARGETS = {"1e-4": (0.60, 0.55), "1e-3": (0.60, 0.70), "1e-2": (0.68, 0.75)}
MOUNT_TARGET = 2.2  # times the standalone image's p50
MEMORY_TARGET = 512 << 20


def title(name: str) -> str:
    return f"**{name}**" if name in (OURS, ALONE) else TITLES.get(name, name)


def reached(is_so: bool) -> str:
    return "reached" if is_so else "**missed**"


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def called(pair: dict) -> str:
    return f"{pair['fine_tune']} from {pair['base']}"


def rows_of(found: dict, pair: dict) -> dict:
    """Name -> row of a pair."""
    return {row["name"]: row for row in found["rows"]
            if (row["base"], row["fine_tune"]) == (pair["base"], pair["fine_tune"])}


def ratio(rows: dict, name: str) -> float | None:
    """Our bytes by another's."""
    ours, other = rows.get(OURS, {}), rows.get(name, {})
    return ours["bytes"] / other["bytes"] if "bytes" in ours and "bytes" in other else None


def restored(row: dict) -> str:
    if row["exact"]:
        return "same"
    return "tensors same, file not" if row["tensors_exact"] else "**NOT THE SAME**"


def line(row: dict, pair: dict, rows: dict) -> str:
    if "error" in row:
        reason = row["error"].replace("|", "/").replace("<", "&lt;")
        return f"| {title(row['name'])}: {reason} |" + " |" * (len(COLUMNS) + 4)
    times = ratio(rows, row["name"])
    cells = [title(row["name"]), f"{row['bytes']:,}", f"{100 * row['bytes'] / pair['bytes']:.2f} %",
             "" if times is None else f"{times:.3f}",
             *(table.figure(key, table.value(row, key)) for _, key in COLUMNS), restored(row)]
    return f"| {' | '.join(cells)} |"


def ahead(rows: dict) -> str:
    """Who does better than our delta, and in what."""
    said, ours = [], rows.get(OURS, {})
    for what, key in (("size", "bytes"), ("encoding", "encode_s"), ("encoding by CPU seconds", "encode_cpu_s"),
                      ("decoding", "decode_s"), ("decoding by CPU seconds", "decode_cpu_s")):
        own = table.value(ours, key)
        names = [TITLES.get(row["name"], row["name"]) for row in rows.values() if row["name"] not in (OURS, ALONE)
                 and own is not None and table.value(row, key) is not None and table.value(row, key) < own]
        if names:
            said.append(f"{what} ({', '.join(names)})")
    return "Ahead of us: " + ("; ".join(said) or "none") + "."


def section(found: dict, pair: dict) -> list:
    rows = rows_of(found, pair)
    heads = ("", "bytes", "of the file", "bigsmall/this", *(head for head, _ in COLUMNS), "restored")
    kind = f"noise {pair['noise']}" if pair["noise"] else "trained"
    return [f"### {called(pair)}, {pair['dtype']}, {pair['bytes'] / 1e6:.1f} MB, {kind}", "",
            f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 2) + "|---|",
            *(line(row, pair, rows) for row in rows.values()), "", ahead(rows), ""]


def size_targets(found: dict) -> list:
    lines = []
    for pair in found["pairs"]:
        if pair["noise"] not in TARGETS:
            continue
        for name, target in zip((PACKAGE, BITX), TARGETS[pair["noise"]]):
            times = ratio(rows_of(found, pair), name)
            got = "not measured |" if times is None else f"{times:.3f} | {reached(times <= target)}"
            other = TITLES.get(name, name)
            lines.append(f"| bytes at noise {pair['noise']}, by those of {other} | {target:.2f} | {got} |")
    return lines


def of_mount(mount: dict, name: str) -> float | None:
    return next((row["p50_us"] for row in mount.get("rows", []) if row["name"] == name), None)


def mount_targets(found: dict) -> list:
    lines, mount = [], found.get("mount", {})
    alone = of_mount(mount, "standalone image")
    for row in mount.get("rows", []):
        if row["name"].startswith("delta"):
            times = row["p50_us"] / alone
            lines.append(f"| p50 of a read of 4 KiB from a mount, {row['name']}, by that of the standalone image "
                         f"| {MOUNT_TARGET:.2f} | {times:.2f} | {reached(times <= MOUNT_TARGET)} |")
    return lines


def memory_targets(found: dict) -> list:
    if "memory" not in found:
        return []
    peak = found["memory"]["compress"]["peak_bytes"]
    return [f"| peak memory of `compress` of 1 GB with a base of 1 GB | {mib(MEMORY_TARGET)} | {mib(peak)} | "
            f"{reached(peak < MEMORY_TARGET)} |"]


def same(exact: bool) -> str:
    return "same" if exact else "**NOT THE SAME**"


def mount_part(mount: dict) -> list:
    head = ["## Reads from a mount", ""]
    if "error" in mount:
        return [*head, f"Not measured: {mount['error']}.", ""]
    alone = of_mount(mount, "standalone image")
    lines = [f"| {row['name']} | {row['p50_us']:.1f} | {row['p90_us']:.1f} | {row['p50_us'] / alone:.2f} | "
             f"{same(row['exact'])} |" for row in mount["rows"]]
    return [*head,
            f"`pread` of {mount['page_bytes']} bytes at a random place of {called(mount)}, "
            f"{mount['model_bytes'] / 1e6:.1f} MB, mounted with `--cache {mount['cache_bytes'] >> 20}m`. Each sample "
            "has a descriptor of its own, after `posix_fadvise(POSIX_FADV_DONTNEED)`, so the kernel has none of the "
            "mounted file and asks; the places go through all blocks in one shuffled order before any comes again, so the "
            "cache has dropped the block and each read is a decode. What lies under the mounts (images, base) is in "
            "the kernel's page cache: these are warm reads, a cold disk adds its own time. All files were read whole "
            "once before, and compared: the first read of a tensor of a delta may hash the base's tensor to know it, "
            "which is not in these figures. The file on the disk comes from the page cache; the plain file "
            "through a mount shows what the kernel and the daemon cost without a decode. The files take turns sample "
            f"by sample, {mount['rows'][0]['samples']} samples each; only the `pread` is timed.", "",
            "| | p50, us | p90, us | p50 by the standalone image's | content |", "|---|---:|---:|---:|---|", *lines, ""]


def memory_part(memory: dict) -> list:
    lines = []
    for verb in ("compress", "decompress"):
        one = memory[verb]
        lines.append(f"| `{verb}` | {mib(one['peak_bytes'])} | {one['s']:.2f} | {one['cpu_s']:.2f} |")
    percent = 100 * memory["bytes"] / memory["model_bytes"]
    return ["## Memory", "",
            f"{called(memory)}, {memory['model_bytes'] / 1e6:.0f} MB (synthetic: normal weights, and noise of 1e-3), "
            f"with `--base` and as many threads as there are cores. The image has {percent:.2f} % of the file's bytes; "
            f"the file that came back: {same(memory['exact'])}. Peak memory is the kernel's count of the process's "
            "resident pages, in one run.", "",
            "| | peak | s | CPU s |", "|---|---:|---:|---:|", *lines, ""]


def introduction(found: dict) -> list:
    m = found["machine"]
    return [
        f"Measured on {found['date']} by `{found['command']}`: {m['cpu']}, {m['cores']} cores{m['caches']}, "
        f"{m['memory']}, {m['system']}, Python {found['python']}. A fine-tune is stored as differences from its base "
        f"and restored from it, from files to a file; all took turns, {table.times(found['rounds'], 'round')}, every "
        "turn a process of its own on one core. Seconds are medians of the rounds, and [deltas.json](deltas.json) has "
        "the least and the most beside them; CPU seconds are steadier where others use the machine.", "",
        "Pairs with *noise*: all-MiniLM-L6-v2 in BF16, and the same F32 weights with normal noise of that part of each "
        "tensor's standard deviation, rounded to BF16 (`tests/bench/make_fine_tune.py`). Noise is alike everywhere, "
        "which no real fine-tune is; *trained* pairs are really trained. *Restored* compares the sha256 of the file "
        "that came back with the original's.", ""]


def who(found: dict) -> list:
    lines = [f"| {title(name)} | {one['version']} | {one['settings']} |" for name, one in found["contestants"].items()]
    return ["## Who and how", "",
            "Programs are timed whole, from start to exit; what is in Python without interpreter and imports. The "
            "seconds of ours have in them that it reads back what it wrote and waits for the disk, hashes the base's "
            "tensors to know them, and compares checksums when decoding. BitX is our implementation, in numpy, of the "
            "published scheme, not its authors' program. python-bigsmall is another program of our name, on PyPI. It "
            "and xdelta3 run in the first round only, as they are slow.", "",
            "| | version | settings |", "|---|---|---|", *lines, ""]


def page(found: dict) -> str:
    text = ["# Deltas side by side with other programs", "", *introduction(found)]
    targets = [*size_targets(found), *mount_targets(found), *memory_targets(found)]
    if targets:
        text += ["## Targets", "", "| | at most | measured | |", "|---|---:|---:|---|", *targets, ""]
    text += ["## Size and time", ""]
    for pair in found["pairs"]:
        text += section(found, pair)
    if "mount" in found:
        text += mount_part(found["mount"])
    if "memory" in found:
        text += memory_part(found["memory"])
    return wrapped.wrapped("\n".join(text + who(found)))
