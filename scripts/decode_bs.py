#!/usr/bin/env python3
"""Restores the original file or folder from a .bs image; written from docs/format.md alone, needs numpy.
Exit status: 0 restored and proven, 1 input or output failed, 2 usage, 4 damaged, 6 needs a newer reader."""
import argparse, functools, hashlib, io, itertools, mmap, os, re, shutil, struct, sys, tempfile, numpy as np

WHERE, MAGIC = ["index"], b"\x89BigSml\n"  # WHERE: what is being decoded, for messages
R32 = {4: (2, 1), 5: (2, 2), 6: (4, 3), 7: (1, 1), 8: (2, 2), 9: (4, 4), 10: (8, 8)}  # codec: w, planes
def need(ok, text, kind=ValueError):
    if not ok: raise kind(text)
def align(x, a): return -(-x // a) * a
def number(data): return int.from_bytes(data, "little")
def array(data, kind=np.uint8, count=-1, p=0): return np.frombuffer(data, kind, count, p).astype(np.uint32)

# ---- XXH3-64 without seed or secret ----
SECRET = bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825a"
    "d07dccff7221b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9de"
    "acd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb170d"
    "dd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
P1, P2, P3, P4 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x9FB21C651E98DF25
ACC = (P2 >> 32, P1, P2, P3, 0x85EBCA77C2B2AE63, 0x85EBCA77, 0x27D4EB2F165667C5, P1 >> 32)
KEYS, M64 = np.stack([np.frombuffer(SECRET, "<u8", 8, p) for p in (*range(0, 136, 8), 121)]), (1 << 64) - 1
def key(p): return number(SECRET[p:p + 8])
def fold(a, b): return a * b & M64 ^ a * b >> 64
def finish(h, a=37, mul=0x165667919E3779F9, b=32):
    h = (h & M64 ^ (h & M64) >> a) * mul & M64
    return h ^ h >> b
def xxh3(data):
    n, get = len(data), lambda p, size=8: number(data[p:p + size])
    mix = lambda p, s: fold(get(p) ^ key(s), get(p + 8) ^ key(s + 8)); h = n * P1
    if n <= 3:
        h = 0x87275A9B ^ data[0] << 16 ^ data[n >> 1] << 24 ^ data[-1] ^ n << 8 if n else key(56) ^ key(64)
        return finish(finish(h, 33, P2, 29), 64, P3)
    if n <= 8:
        h = get(n - 4, 4) + (get(0, 4) << 32) ^ key(8) ^ key(16)
        h = (h ^ (h << 49 | h >> 15) & M64 ^ (h << 24 | h >> 40) & M64) * P4 & M64
        return finish((h ^ (h >> 35) + n) * P4, 64, 1, 28)
    if n <= 16:
        low, high = get(0) ^ key(24) ^ key(32), get(n - 8) ^ key(40) ^ key(48)
        return finish(n + number(low.to_bytes(8, "big")) + high + fold(low, high))
    if n <= 128:
        return finish(h + sum(mix(i, 2 * i) + mix(n - i - 16, 2 * i + 16) for i in range(0, n + 1 >> 1, 16)))
    if n <= 240:
        h = finish(h + sum(mix(i, i) for i in range(0, 128, 16)))
        return finish(h + sum(mix(i, i - 125) for i in range(128, n - 15, 16)) + mix(n - 16, 119))
    acc, m, rest = np.array(ACC, np.uint64), (n - 1) // 1024, (n - 1) % 1024 // 64
    for t in itertools.chain(*(xxh3_sums(data, r << 10, min(64, m - r), KEYS[:16]) for r in range(0, m, 64))):
        acc = acc + t; acc = (acc ^ acc >> 47 ^ KEYS[16]) * (P1 >> 32)
    acc = acc + xxh3_sums(data, m << 10, 1, KEYS[:rest])[0] + xxh3_sums(data, n - 64, 1, KEYS[17:])[0]
    a = [v ^ key(11 + 8 * i) for i, v in enumerate(acc.tolist())]
    return finish(h + sum(map(fold, a[::2], a[1::2])))
def xxh3_sums(data, p, rows, keys):  # what each row of up to 16 stripes adds to the accumulators
    d = np.frombuffer(data, "<u8", rows * keys.size, p).reshape(rows, *keys.shape)
    return (d[..., [1, 0, 3, 2, 5, 4, 7, 6]] + ((d ^ keys) & 0xFFFFFFFF) * ((d ^ keys) >> 32)).sum(axis=1)

# ---- zstd; the numbers are those of the sections of RFC 8878 ----
def codes(first, bits): return list(zip(itertools.accumulate([first] + [1 << b for b in bits]), bits))
CODES = (codes(0, [0] * 16 + [1, 1, 1, 1, 2, 2, 3, 3, 4, *range(6, 17)]), [(1 << i, i) for i in range(32)],
         codes(3, [0] * 32 + [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, *range(7, 17)]))
DEFAULTS = [bytes.fromhex(s) for s in ("5110638c31c618630c21c4186366668646920400",  # written as in 4.1.1
    "2084104266464444444424490200", "2114c418638c2184104208218410420821444444444444444424090000")]
class Bits:  # read backwards from the mark at the end of data; pos < 0 when too many were read
    def __init__(self, data):
        need(data and data[-1], "zstd: bits without an end")
        self.data, self.pos = data, 8 * len(data) - 9 + data[-1].bit_length()
    def read(self, n):
        self.pos -= n; p = self.pos >> 3
        return int.from_bytes(self.data[p:p + 8], "little") >> (self.pos & 7) & (1 << n) - 1
def fse(data, max_log, max_symbols):  # 4.1.1: (symbol, bits, base) of each state; the bytes used
    v, counts, p = number(data[:160]), [], 4; log = (v & 15) + 5; size = left = 1 << log
    while left > 0 and len(counts) < max_symbols:
        n = (left + 1).bit_length(); half = 1 << n - 1; x = v >> p & 2 * half - 1; short = 2 * half - 2 - left
        p += n - (x % half < short); x = x % half if x % half < short else x - short * (x >= half)
        counts.append(x - 1); left -= abs(x - 1)
        while x == 1: zeros = v >> p & 3; p += 2; counts += [0] * zeros; x = zeros // 3
    need(left == 0 and len(counts) <= max_symbols and log <= max_log and p <= 8 * len(data), "zstd: table")
    rare, x, table = [s for s, c in enumerate(counts) if c < 0], [abs(c) for c in counts], []
    order = [q for q in (i * (5 * size // 8 + 3) % size for i in range(size)) if q < size - len(rare)]
    symbols = [s for s, c in enumerate(counts) for _ in range(c)] + rare
    for _, s in sorted(zip(order + [size - 1 - i for i in range(len(rare))], symbols)):
        n = log + 1 - x[s].bit_length(); table.append((s, n, (x[s] << n) - size)); x[s] += 1
    return table, (p + 7) // 8
def huffman_table(data):  # 4.2.1: (symbol, length) by the value of the next bits; the bytes used
    used = 1 + data[0] if data[0] < 128 else (data[0] - 124) // 2
    weights = [v for byte in data[1:used] for v in (byte >> 4, byte & 15)][:data[0] - 127]
    if data[0] < 128:
        (table, p), weights = fse(data[1:used], 6, 13), []
        bits, log = Bits(data[1 + p:used]), len(table).bit_length() - 1; a, b = bits.read(log), bits.read(log)
        while bits.pos >= 0 and len(weights) < 256:
            symbol, n, base = table[a]; weights.append(symbol); a, b = b, base + bits.read(n)
        weights.append(table[a][0])
    total = sum(1 << w >> 1 for w in weights); bits = total.bit_length(); last = (1 << bits) - total
    need(0 < bits < 12 and not last & last - 1 and len(weights) < 256, "zstd: bad Huffman weights")
    order = sorted((w, s) for s, w in enumerate(weights + [last.bit_length()]) if w)
    return [(s, bits + 1 - w) for w, s in order for _ in range(1 << w >> 1)], used
def huffman_stream(data, table, count):  # 4.2.2: the count literals of one stream
    b, out, mask = array(b"\0\0" + data + b"\0\0"), bytearray(), len(table) - 1; bits = mask.bit_length()
    window, p = (b[:-2] | b[1:-1] << 8 | b[2:] << 16).tolist(), Bits(data).pos + 16 - bits
    for _ in range(count): symbol, n = table[window[p >> 3] >> (p & 7) & mask]; out.append(symbol); p -= n
    need(p == 16 - bits, "zstd: literals not used up"); return out
def zstd_literals(data, state):  # 3.1.1.3.1: the literals of a block; the bytes used
    kind, form = data[0] & 3, data[0] >> 2 & 3
    if kind < 2:
        p = (1, 2, 1, 3)[form]; size = number(data[:p]) >> (4 if form & 1 else 3)
        return (data[p:p + size], p + size) if kind == 0 else (data[p:p + 1] * size, p + 1)
    p, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
    size, end = number(data[:p]) >> 4 & (1 << width) - 1, p + (number(data[:p]) >> 4 + width)
    if kind == 2: state["huffman"], used = huffman_table(data[p:end]); p += used
    if form == 0: return huffman_stream(data[p:end], state["huffman"], size), end
    cuts, part = [*itertools.accumulate((p + 6, *struct.unpack_from("<3H", data, p))), end], (size + 3) // 4
    return b"".join(huffman_stream(data[a:b], state["huffman"], c) for a, b, c in zip(
        cuts, cuts[1:], (part, part, part, size - 3 * part))), end
def zstd_block(data, state, out, limit):  # 3.1.1.3 and 3.1.1.4: appends to out what the block makes
    (literals, p), at, rep = zstd_literals(data, state), 0, state["offsets"]; count = data[p]; p += 1
    if count == 255: count = number(data[p:p + 2]) + 32512; p += 2
    elif count > 127: count = count - 128 << 8 | data[p]; p += 1
    if count == 0: need(len(data) == p, "zstd: bytes left over"); out += literals; return
    modes = data[p]; p += 1
    for kind, shift in enumerate((6, 4, 2)):
        mode = modes >> shift & 3; source = data[p:] if mode == 2 else DEFAULTS[kind]
        table, used = ([(data[p], 0, 0)], 1) if mode == 1 else fse(source, (9, 8, 9)[kind], len(CODES[kind]))
        if mode != 3: state[kind] = [CODES[kind][s] + (n, base) for s, n, base in table]
        if mode in (1, 2): p += used
    bits, tables = Bits(data[p:]), [state[kind] for kind in range(3)]
    ll, of, ml = (bits.read(len(table).bit_length() - 1) for table in tables)
    for left in range(count, 0, -1):
        (run, a, x, ll), (offset, b, y, of), (match, c, z, ml) = (t[i] for t, i in zip(tables, (ll, of, ml)))
        offset += bits.read(b); match += bits.read(c); run += bits.read(a)
        if left > 1: ll += bits.read(x); ml += bits.read(z); of += bits.read(y)
        which = offset - 1 + (run == 0) if offset <= 3 else 4
        offset = offset - 3 if which == 4 else rep[0] - 1 if which == 3 else rep[which]
        if which: rep = [offset, rep[0], rep[2] if which == 1 else rep[1]]
        out += literals[at:at + run]; at += run; start = len(out) - offset
        need(offset > 0 <= start and at <= len(literals) and len(out) + match <= limit, "zstd: bad sequence")
        out += out[start:start + match] if offset >= match else (out[start:] * (match // offset + 1))[:match]
    need(bits.pos == 0 and modes & 3 == 0, "zstd: bits left over")
    out += literals[at:]; state["offsets"] = rep
def zstd(data, n):  # 3.1.1: the n bytes of one frame without dictionary
    single, size = data[4] >> 5 & 1, (data[4] >> 5 & 1, 2, 4, 8)[data[4] >> 6]
    p, out, state, last = 6 - single, bytearray(), {"offsets": [1, 4, 8]}, 0
    need(number(data[:4]) == 0xFD2FB528 and not data[4] & 11, "not a zstd frame without dictionary")
    need(not size or number(data[p:p + size]) + 256 * (size == 2) == n, "zstd: other size"); p += size
    while not last:
        head = number(data[p:p + 3]); last, kind, size = head & 1, head >> 1 & 3, head >> 3; p += 3
        need(p <= len(data) and (kind == 2 or kind < 2 and len(out) + size <= n), "zstd: bad block")
        if kind == 2: zstd_block(data[p:p + size], state, out, n)
        else: out += data[p:p + size] if kind == 0 else data[p:p + 1] * size
        p += 1 if kind == 1 else size
    need(len(out) == n and p + (data[4] & 4) == len(data), "zstd: other length"); return bytes(out)

# ---- codecs ----
def lookup(symbols, freqs):
    """Frequency, slot - start and symbol for each slot of a table."""
    rows = np.repeat([freqs, np.cumsum(freqs) - freqs, symbols], freqs, axis=1)
    rows[1] = np.arange(len(rows[1])) - rows[1]; return rows.astype(np.uint32)
def rans(table, ids, x, stream, bits, shift, m):
    """Sections 7 and 8: m symbols; strip i of 512 uses the table number ids[i] of those in table."""
    pos, out = 0, []
    for first in range(0, m, len(x)):
        freq, rest, symbol = table[:, (x & (1 << bits) - 1) + (ids[first // 512] << bits)]
        x = freq * (x >> bits) + rest; low = np.flatnonzero(x < 1 << shift)
        x[low] = x[low] << shift | stream[pos:pos + len(low)]; pos += len(low); out.append(symbol)
    need(pos == len(stream) and (x >> shift == 1).all(), "bad end of rANS")
    return np.concatenate(out)[:m], x - (1 << shift)
def escapes(values, mask, lits):
    need(mask.sum() == len(lits), "other number of escapes"); values[mask] = array(lits)
def r16(c, n, lanes):
    """Section 7."""
    k, escape, lits, words = struct.unpack_from("<BB2xII", c); m, p = n // 2, 48 + 2 * lanes; q = p + words
    symbols, freqs = [*c[16:16 + k - escape]] + [256] * escape, [*c[32:32 + k]]
    need(k <= 16 and escape < 2 and sum(freqs) == 256 and min(freqs) and symbols == sorted(set(symbols))
         and len(c) == align(q + lits, 16) + m, "bad R16 head or length")
    x, ids = array(c, "<u2", lanes, 48), [0] * (m // 512 + 1)
    e, end = rans(lookup(symbols, freqs), ids, x, array(c[p:q]), 8, 8, m)
    need(not end.any(), "bad end of rANS"); escapes(e, e == 256, c[q:q + lits])
    w = e << 8 | array(c[len(c) - m:])
    return (w >> 1 | w << 15).astype("<u2").tobytes()
@functools.lru_cache(1)
def read_tables(data, codec):
    """Section 8.1: (bits, base, K, the K tables) of each plane."""
    need(data[:2] == bytes((codec, R32[codec][1])), "tables missing or for another codec"); planes, p = [], 4
    for _ in range(data[1]):
        k, bits, base = data[p:p + 3]; p += 4; tables = [np.empty((3, 0), np.uint32)]
        need(k <= 16 and (8 <= bits <= 12 if k else bits == 0), "bad head of tables")
        for _ in range(k):
            symbols = [s for s in range(256) if data[p + s // 8] >> s % 8 & 1]; freqs = []; p += 32
            for _ in symbols[1:]:
                f = data[p]; freqs.append(f if f < 128 else f & 127 | data[p + 1] << 7); p += 1 + f // 128
            freqs.append((1 << bits) - sum(freqs)); need(len(freqs) > 1 and min(freqs) > 0, "bad table")
            tables.append(lookup(symbols, freqs))
        planes.append((bits, base, k, np.concatenate(tables, axis=1)))
    need(p == len(data), "tables not used up"); return planes
def states(c, p, lanes):
    """Section 8, rans of version 2: the states at p, and where they end."""
    widths = [v for pair in c[p + 2 * lanes:][:lanes // 2] for v in (pair & 15, pair >> 4)]; high = []
    start, used = p + lanes * 5 // 2, 0
    end = start + align(sum(widths), 16) // 8; bits = number(c[start:end])
    for width in widths: high.append(bits >> used & (1 << width) - 1 | 1 << width); used += width
    need(bits >> used == 0, "states")
    return array(c, "<u2", lanes, p) | np.array(high, np.uint32) << 16, end
def r32(c, n, lanes, codec, tables, version):
    """Section 8."""
    (w, count), top, planes, lits, held = R32[codec], codec in (4, 6), [], b"", b""; m = n // w
    heads, a = [*struct.iter_unpack("<II", c[:8 * count])], 4 if version > 1 else 16; p = align(8 * count, a)
    tail = 48 * -(-m // 64) if top else m * (heads[-1][0] & 255 == 0)
    size = min(tail, 2 * lanes * sum(head & 255 == 2 for head, _ in heads)) if version > 1 else 0
    for (head, value), (bits, _, k, table) in zip(heads, tables):
        coding, lits_len = head & 255, head >> 8; last = not top and len(planes) == count - 1
        need(coding < 3 and value < (1, 256, M64)[coding] and (not lits_len or top and not planes), "plane")
        if coding == 0: planes.append(array(c, np.uint8, m - size * last, p)); p += m - size * last
        if coding == 1: planes.append(np.full(m, value, np.uint32))
        if coding == 2:
            width, strips = 2 * (k > 1) + 2 * (k > 4), -(-m // 512)
            x, p = states(c, p, lanes) if version > 1 else (array(c, "<u4", lanes, p), p + 4 * lanes)
            words = array(c, "<u2", value, p); p += 2 * value
            v = number(c[p:p + (strips * width + 7) // 8]); p += (strips * width + 7) // 8
            ids = [v >> width * i & (1 << width) - 1 for i in range(strips)]; need(max(ids) < k, "table id")
            plane, x = rans(table, ids, x, words, bits, 16, m); planes.append(plane)
            held += x.astype("<u2").tobytes()
        lits += c[p:p + lits_len]; p = align(p + lits_len, a)
    held, unused = held[len(held) - size:], held[:len(held) - size]
    need(len(c) == p + top * (tail - size) and not any(unused), "other length of the block")
    if top: planes[0] = top_bits(planes[0], tables[0][1], lits, array(c[p:] + held).reshape(-1, 48))
    elif size: planes[-1] = np.concatenate([planes[-1], array(held)])
    x = functools.reduce(lambda a, b: a << 8 | b, [plane.astype(np.uint64) for plane in planes])
    return (x >> 1 | x << 15 if codec == 5 else x).astype(f"<u{w}").tobytes()
def top_bits(symbols, base, lits, packed):
    """Section 8, planes: the 16 bits made of `top` and the packed plane."""
    e = symbols >> 2; escaped = e == 63; e[(e > 0) & ~escaped] += base; need((e < 256).all(), "exponent")
    escapes(e, escaped, lits); low, high = packed[:, :32], packed[:, 32:]
    v = np.hstack([low & 15, low >> 4]) | np.hstack([high >> s & 3 for s in (0, 2, 4, 6)]) << 4
    v = v.ravel()[:len(e)]; return v >> 5 << 15 | e << 7 | (symbols & 3) << 5 | v & 31
def decode(c, n, lanes, codec, tables, version):
    """Section 6."""
    need(codec <= 3 or codec in R32, f"codec {codec} is unknown", NotImplementedError)
    if codec == 0: return c
    if codec == 1: need(len(c) in (1, 2, 4, 8), "bad pattern"); return (c * (n // len(c) + 1))[:n]
    if codec == 2: return zstd(c, n)
    need(n % (2 if codec == 3 else R32[codec][0]) == 0, "bytes beyond the last element")
    return r16(c, n, lanes) if codec == 3 else r32(
        c, n, lanes, codec, read_tables(tables, codec), version)

# ---- the image ----
PATH = re.compile(rb"(?:(?!\.\.?(?:/|\Z))[^/\\\0%s]{1,255}(?:/(?!\Z)|\Z))+" % (b":" * (os.name == "nt")))
class Image:
    def __init__(self, data):
        """Sections 2 and 3: takes the header or the trailer, the front or the tail index."""
        heads = [h for h in (data[:128], data[-128:]) if h[:8] == MAGIC and xxh3(h[:120]) == number(h[120:])]
        need(heads, "neither header nor trailer is whole")
        (version, self.kind, suffix_len, suffix, features, size, self.len, index_len, self.tail, checksum,
            self.files) = struct.unpack("<8xH2xBB16s2xQ8x5QI36x", heads[0])
        self.features, self.seen = features, []
        need(version == 1 and features < 4, f"version {version}, features {features:#x}", NotImplementedError)
        need(self.kind < 2 and size == len(data) == self.tail + index_len + 128 and index_len <= 1 << 28 and (
            self.files == 1 or self.kind and self.files <= 1000000) and suffix_len <= 16 * (1 - self.kind) and
            re.fullmatch(rb"(\.[\w.-]*)?", suffix[:suffix_len]), "bad header, or image of another size")
        index = [i for i in (data[128:128 + index_len], data[self.tail:-128]) if xxh3(i) == checksum]
        need(index, "neither copy of the index is whole")
        self.data, self.p, part = data, align(128 + index_len, 16), read_sections(index[0])
        self.paths, self.spans, self.sha256 = io.BytesIO(part[1]), io.BytesIO(part[2]), io.BytesIO(part[3])
        self.receipts = struct.iter_unpack("<16sII", part[3][32 * self.files:])
        self.blocks = struct.iter_unpack("<QIBBxx", part[4])
    def restore(self, target):
        """Sections 4.1 and 4.3: writes the files; proves their lengths and sha256."""
        before, seen, total = b"", set(), 0; self.kind and os.mkdir(target)
        for _ in range(self.files):
            kind, path_len, spans, length = struct.unpack("<BxHIQ", self.paths.read(16)); total += length
            path = self.paths.read(path_len); WHERE[:] = ["file " + ascii(path.decode())]; seen.add(path)
            need(kind < 2 and len(path) == path_len and bool(path) == self.kind, "bad record of a file")
            need(not path or path > before and PATH.fullmatch(path), f"path after {before}"); before = path
            need(not seen & {path[:j] for j, c in enumerate(path) if c == 47}, "a file is a folder too")
            name = os.path.join(target, *path.decode().split("/")) if path else target
            os.makedirs(os.path.dirname(name), exist_ok=True); sha = hashlib.sha256()
            with open(name, "xb") as out: done = sum([self.span(out, sha) for _ in range(spans)])
            need(done == length and sha.digest() == self.sha256.read(32), "length or sha256 differs")
        need(self.tail == self.p + 64 and total == self.len and not self.paths.read() + self.spans.read()
             and [*self.receipts, *self.blocks] == [], "something is left over, or another length")
    def span(self, out, sha):
        """Sections 4.2 to 4.4: writes the next span, proves its blocks and its md5, returns its length."""
        kind, shift, lanes, dtype, rank, name, repeats, length = struct.unpack(
            "<BBBBH2xIIQ", self.spans.read(24))
        text = self.spans.read(dtype + name + 8 * rank); own = hashlib.md5()
        number = repeats * (self.features & 1)
        md5, size, shares = next(self.receipts); shares *= self.features >> 1
        WHERE[1:] = [("header ", "tensor ", "bytes ")[kind] + ascii(text[dtype:dtype + name].decode())]
        need(kind < 3 and 16 <= shift <= 20 and 5 <= lanes <= 6 and (kind or length <= 100000008)
             and len(text) == (dtype + name + 8 * rank) * (kind == 1), "bad record of a span")
        need(size <= 1 << 18 and (length or not size), "bad receipt")
        like = length, shift, lanes
        need(not shares or length and not number and not size and shares <= len(self.seen), "bad sharing")
        if number:  # the place of tables and blocks is that of an earlier span
            need(number <= len(self.seen) and self.seen[number - 1][0] == like and not size, "bad repeat")
            _, tables, blocks, _ = self.seen[number - 1]
        else:
            self.p = align(self.p, 4096 if length >> 24 else 16); tables = self.take(size)
            if shares: tables = self.seen[shares - 1][3]; need(tables, "no tables to share")
            records = [next(self.blocks) for _ in range(0, length, 1 << shift)]
            blocks = [(*record, self.place(record[1])) for record in records]
        self.seen.append((None if number else like, tables, blocks, None if number or shares else tables))
        for b, (checksum, coded, codec, version, place) in enumerate(blocks):
            n = min(1 << shift, length - (b << shift))
            WHERE[2:] = [f"block {b}"]; known = 1 <= version <= 1 + (codec in R32)
            need(known, f"codec {codec} of version {version}", NotImplementedError)
            need(coded <= n + 1024, "too long")
            part = decode(self.data[place:place + coded], n, 1 << lanes, codec, tables, version)
            need(len(part) == n and xxh3(part) == checksum, "checksum differs")
            out.write(part); sha.update(part); own.update(part)
        need(own.digest() == md5, "md5 of the span differs"); WHERE[1:] = []; return length
    def place(self, n):
        """Section 5: where the next n bytes of the data are."""
        p = self.p; self.p = align(p + n, 16); need(self.p <= self.tail, "cut off"); return p
    def take(self, n): p = self.place(n); return self.data[p:p + n]
def read_sections(index):
    """Section 4: {tag: payload}."""
    found, p, last = {}, 0, 0
    while p < len(index):
        tag, flags, stored, plain = struct.unpack_from("<IIQQ", index, p)
        payload, p = index[p + 24:p + 24 + stored], align(p + 24 + stored, 8)
        need(1 <= tag <= 4 or not flags & 1, f"section {tag} is unknown", NotImplementedError)
        need(last < tag and flags < 4 and plain <= 1 << (26 if flags & 2 else 28) and p <= len(index) and (
            plain == stored if flags < 2 else tag not in (3, 4)), f"section {tag} has a bad head")
        found[tag], last = zstd(payload, plain) if flags > 1 and tag < 3 else payload, tag
    need(found.keys() >= {1, 2, 3, 4}, "a section is missing"); return found
def main():
    cli = argparse.ArgumentParser(description=__doc__); cli.add_argument("--force", action="store_true")
    cli.add_argument("input"); cli.add_argument("output"); args = cli.parse_args()
    to = os.path.abspath(args.output); os.path.lexists(to) and not args.force and cli.error("OUTPUT exists")
    try:
        with open(args.input, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data, \
                tempfile.TemporaryDirectory(prefix=".decode_bs-", dir=os.path.dirname(to)) as temp:
            made = os.path.join(temp, "made"); Image(data).restore(made)
            if not (os.path.isdir(made) and os.path.isdir(to)): os.replace(made, to)
            else: shutil.copytree(made, to, copy_function=os.replace, dirs_exist_ok=True)
    except Exception as e:  # whatever hostile bytes make fail is damage
        print(f"{args.input}: {', '.join(WHERE)}: {str(e) or type(e).__name__}", file=sys.stderr)
        return 6 if isinstance(e, NotImplementedError) else 1 if isinstance(e, OSError) else 4
if __name__ == "__main__": sys.exit(main())
