#!/usr/bin/env python3
"""Restores the original file or folder from a .bs image; written from docs/format.md alone, needs numpy.
A fine-tune stored as differences needs its base, which is known by the BLAKE3 of its tensors: name it by --base.
Exit status: 0 restored and proven, 1 input or output failed, 2 usage, 4 damaged, 5 base not found,
6 needs a newer reader."""
import argparse, collections, contextlib, functools, hashlib, io, itertools, json, mmap, os, re, shutil, struct, sys
import tempfile, numpy as np

WHERE, MAGIC = ["index"], b"\x89BigSml\n"  # WHERE: what is being decoded, for messages
R32 = {4: (2, 1), 5: (2, 2), 6: (4, 3), 7: (1, 1), 8: (2, 2), 9: (4, 4), 10: (8, 8)}  # codec: w, planes
SAME, DELTAS = 12, {13: (2, 7), 14: (2, 10), 15: (4, 23), 16: (1, 3), 17: (1, 2)}  # codec: w, bits of mantissa
class MissingBase(Exception): pass
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

# ---- BLAKE3-256, as in chapter 2 of its paper ----
IV = np.array([0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19],
              np.uint32).reshape(8, 1)
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
def blake3_mix(cv, words, counters, length, flags):
    """The compression function, once in each column: 8 words of chaining value, 16 of input, 8 of output."""
    a, b, c, d = cv[:4], cv[4:], np.repeat(IV[:4], words.shape[1], axis=1), np.empty_like(words[:4])
    d[0], d[1], d[2], d[3] = counters & 0xFFFFFFFF, counters >> 32, length, flags
    for _ in range(7):
        for half in (0, 8):  # the columns of the state, then its diagonals
            for x, left, right in ((words[half:half + 8:2], 16, 12), (words[half + 1:half + 8:2], 8, 7)):
                a = a + b + x; d = d ^ a; d = d >> left | d << 32 - left
                c = c + d; b = b ^ c; b = b >> right | b << 32 - right
            there, back = ([1, 2, 3, 0], [3, 0, 1, 2])[::-1 if half else 1]
            b, c, d = b[there], c[[2, 3, 0, 1]], d[back]
        words = words[ORDER]
    return np.concatenate([a ^ c, b ^ d])
def blake3_chunks(data, size, first, root):
    """The chaining values of the chunks of `size` bytes that data is, the first of them number `first`."""
    blocks = max(1, -(-size // 64)); words = np.frombuffer(data + bytes(64 * blocks - size) * (size < 1024), "<u4")
    words = words.reshape(-1, blocks, 16).transpose(1, 2, 0).astype(np.uint32)
    counters = np.arange(first, first + words.shape[2], dtype=np.uint64)
    cv = np.repeat(IV, words.shape[2], axis=1)
    for i in range(blocks):
        flags = CHUNK_START * (i == 0) | (CHUNK_END | ROOT * root) * (i == blocks - 1)
        cv = blake3_mix(cv, words[i], counters, min(64, size - 64 * i), flags)
    return cv
def blake3(data):
    full = max(0, len(data) - 1) // 1024; rest = data[1024 * full:]  # the last chunk may be shorter
    cv = [blake3_chunks(data[1024 * i:1024 * min(i + 1024, full)], 1024, i, False) for i in range(0, full, 1024)]
    cv = np.concatenate([*cv, blake3_chunks(rest, len(rest), full, full == 0)], axis=1)
    while (n := cv.shape[1]) > 1:  # one level of the tree; a last one without a neighbour goes up as it is
        pairs = np.concatenate([cv[:, 0:n - 1:2], cv[:, 1:n:2]])
        up = blake3_mix(np.repeat(IV, n // 2, axis=1), pairs, np.uint64(0), 64, PARENT | ROOT * (n == 2))
        cv = np.concatenate([up, cv[:, n - n % 2:]], axis=1)
    return cv[:, 0].astype("<u4").tobytes()

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
        k, bits, base = data[p:p + 3]
        need(k <= 16 and (8 <= bits <= 12 if k else bits == 0), "bad head of tables")
        table, p = read_table(data, p + 4, k, bits); planes.append((bits, base, k, table))
    need(p == len(data), "tables not used up"); return planes
def read_table(data, p, k, bits):
    """The k tables at p, one behind another, and where they end."""
    tables = [np.empty((3, 0), np.uint32)]
    for _ in range(k):
        symbols = [s for s in range(256) if data[p + s // 8] >> s % 8 & 1]; freqs = []; p += 32
        for _ in symbols[1:]:
            f = data[p]; freqs.append(f if f < 128 else f & 127 | data[p + 1] << 7); p += 1 + f // 128
        freqs.append((1 << bits) - sum(freqs)); need(len(freqs) > 1 and min(freqs) > 0, "bad table")
        tables.append(lookup(symbols, freqs))
    return np.concatenate(tables, axis=1), p
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
@functools.lru_cache(1)
def read_delta_tables(data, codec):
    """Section 9: bits, highest, the table of each context, the tables."""
    need(len(data) > 12 and data[0] == codec, "tables missing or for another codec"); k, bits, highest = data[1:4]
    of = [v for byte in data[4:12] for v in (byte & 15, byte >> 4)]
    need(1 <= k <= 16 and 8 <= bits <= 12 and max(of) < k, "bad head of tables")
    table, p = read_table(data, 12, k, bits); need(p == len(data), "tables not used up")
    return bits, highest, np.array(of), table
def ordered(x, sign): return np.where(x & sign, x ^ sign - 1, x)  # ord of section 9, and its own way back
def differences(c, n, codec, base, tables):
    """Section 9: the floats that differ from those of the base by what the block says."""
    (w, mantissa), (bits, highest, of, table) = DELTAS[codec], read_delta_tables(tables, codec)
    need(n % w == 0, "bytes beyond the last element"); sign = 1 << 8 * w - 1
    base = np.frombuffer(base, f"<u{w}").astype(np.int64); exponent = (base & sign - 1) >> mantissa
    first = of[np.clip(highest - exponent, 0, 15)] << bits  # where the table of each element begins
    x, p = states(c, 4, 64); count = number(c[:4]); words = array(c, "<u2", count, p); pos = 0
    need(len(c) == p + 2 * count, "other length of the block"); z = np.empty(len(base), np.int64)
    def refill(x):
        nonlocal pos
        low = np.flatnonzero(x < 1 << 16); x[low] = x[low] << 16 | words[pos:pos + len(low)]; pos += len(low)
    for i in range(0, len(base), 64):
        lane = x[:len(base) - i]  # lanes without an element do nothing
        freq, rest, symbol = table[:, (lane & (1 << bits) - 1) + first[i:i + 64]]
        lane[:] = freq * (lane >> bits) + rest; refill(lane)
        small = symbol < 16; r = np.where(small, 0, (symbol >> 3) - 1); raw = 0
        for shift, q in ((0, np.minimum(r, 16)), (16, np.maximum(r, 16) - 16)):
            raw |= (lane & (1 << q) - 1).astype(np.int64) << shift; lane[:] = lane >> q; refill(lane)
        z[i:i + 64] = np.where(small, symbol, (symbol & 7 | 8).astype(np.int64) << r | raw)
    need(pos == count and (x == 1 << 16).all(), "bad end of rANS")
    t = ordered(base, sign) + (z >> 1 ^ -(z & 1)) & 2 * sign - 1
    return ordered(t, sign).astype(f"<u{w}").tobytes()
def decode(c, n, lanes, codec, tables, version, base):
    """Section 6; base is the bytes of the base at the place of the block, or None."""
    known = codec <= 3 or codec in R32 or codec == SAME or codec in DELTAS
    need(known, f"codec {codec} is unknown", NotImplementedError)
    need(codec < SAME or base is not None, "differences from nothing")
    if codec == 0: return c
    if codec == 1: need(len(c) in (1, 2, 4, 8), "bad pattern"); return (c * (n // len(c) + 1))[:n]
    if codec == 2: return zstd(c, n)
    if codec == SAME: need(not c, "other length of the block"); return base
    if codec in DELTAS: return differences(c, n, codec, base, tables)
    need(n % (2 if codec == 3 else R32[codec][0]) == 0, "bytes beyond the last element")
    return r16(c, n, lanes) if codec == 3 else r32(
        c, n, lanes, codec, read_tables(tables, codec), version)

# ---- the image ----
PATH = re.compile(rb"(?:(?!\.\.?(?:/|\Z))[^/\\\0%s]{1,255}(?:/(?!\Z)|\Z))+" % (b":" * (os.name == "nt")))
# of a span: its places in the image, and how to decode them; `base` is None or the BLAKE3 and the name of its base
Span = collections.namedtuple("Span", "kind name len shift lanes md5 tables blocks base repeats shares")
class Image:
    def __init__(self, data, bases):
        """Sections 2 to 4: takes the header or the trailer, the front or the tail index; reads all records."""
        heads = [h for h in (data[:128], data[-128:]) if h[:8] == MAGIC and xxh3(h[:120]) == number(h[120:])]
        need(heads, "neither header nor trailer is whole")
        (version, self.kind, suffix_len, suffix, features, size, self.len, index_len, self.tail, checksum,
            count) = struct.unpack("<8xH2xBB16s2xQ8x5QI36x", heads[0])
        self.features, self.bases, self.base_path = features, bases, None
        need(version == 1 and features < 4, f"version {version}, features {features:#x}", NotImplementedError)
        need(self.kind < 2 and size == len(data) == self.tail + index_len + 128 and index_len <= 1 << 28 and (
            count == 1 or self.kind and count <= 1000000) and suffix_len <= 16 * (1 - self.kind) and
            re.fullmatch(rb"(\.[\w.-]*)?", suffix[:suffix_len]), "bad header, or image of another size")
        index = [i for i in (data[128:128 + index_len], data[self.tail:-128]) if xxh3(i) == checksum]
        need(index, "neither copy of the index is whole")
        self.data, self.p, part = data, align(128 + index_len, 16), read_sections(index[0])
        paths, self.records, sha256 = io.BytesIO(part[1]), io.BytesIO(part[2]), io.BytesIO(part[3])
        self.receipts = struct.iter_unpack("<16sII", part[3][32 * count:])
        self.blocks, self.base_of = struct.iter_unpack("<QIBBxx", part[4]), read_bases(part.get(5))
        self.spans, self.files, self.members = [], [], None
        for _ in range(count):
            kind, path_len, spans, length = struct.unpack("<BxHIQ", paths.read(16)); path = paths.read(path_len)
            WHERE[:] = ["file " + ascii(path.decode())]
            need(kind < 2 and len(path) == path_len and bool(path) == self.kind, "bad record of a file")
            spans = [self.read_span() for _ in range(spans)]
            need(sum(span.len for span in spans) == length, "another length")
            self.files.append((path, length, sha256.read(32), spans))
        WHERE[:] = ["index"]
        need(self.tail == self.p + 64 and sum(length for _, length, _, _ in self.files) == self.len
             and not paths.read() + self.records.read() and [*self.receipts, *self.blocks, *self.base_of] == [],
             "something is left over, or another length")
        if 8 in part: self.members = [*read_members(part[8])]; check_members(self.members, self.files, self.kind)
    def read_span(self):
        """Sections 4.2 to 4.5 and 5: the next span."""
        kind, shift, lanes, dtype, rank, name_len, repeats, length = struct.unpack(
            "<BBBBH2xIIQ", self.records.read(24))
        text = self.records.read(dtype + name_len + 8 * rank); name = text[dtype:dtype + name_len].decode()
        md5, size, shares = next(self.receipts); base = next(self.base_of, None)
        repeats *= self.features & 1; shares *= self.features >> 1
        need(kind < 3 and 16 <= shift <= 20 and 5 <= lanes <= 6 and (kind or length <= 100000008)
             and len(text) == (dtype + name_len + 8 * rank) * (kind == 1), "bad record of a span")
        need(size <= 1 << 18 and (length or not size), "bad receipt")
        need(not shares or length and not repeats and not size and shares <= len(self.spans), "bad sharing")
        if repeats:  # the place of tables and blocks is that of an earlier span
            need(repeats <= len(self.spans) and not size and not base, "bad repeat")
            of = self.spans[repeats - 1]; tables, blocks, base = of.tables, of.blocks, of.base
            need((of.len, of.shift, of.lanes, of.repeats) == (length, shift, lanes, 0), "bad repeat")
        else:
            self.p = align(self.p, 4096 if length >> 24 else 16); tables = self.place(size)
            if shares:
                of = self.spans[shares - 1]; tables = of.tables
                need(len(tables) and not of.repeats and not of.shares, "no tables to share")
            records = [next(self.blocks) for _ in range(0, length, 1 << shift)]
            blocks = [(*record, self.place(record[1])) for record in records]
            if base: base = base[0], base[1] or name
        self.spans.append(Span(kind, name, length, shift, lanes, md5, tables, blocks, base, repeats, shares))
        return self.spans[-1]
    def restore(self, target):
        """Section 4.1: writes the files; proves their lengths and sha256."""
        before, seen = b"", set(); self.kind and os.mkdir(target, 0o777 if self.members is None else 0o700)
        for member in self.members or []:  # for nobody else until all is in them
            if member.kind == 1 and member.path: os.mkdir(below(target, member.path), 0o700)
        for path, length, expected, spans in self.files:
            WHERE[:] = ["file " + ascii(path.decode())]; seen.add(path)
            need(not path or path > before and PATH.fullmatch(path), f"path after {before}"); before = path
            need(not seen & {path[:j] for j, c in enumerate(path) if c == 47}, "a file is a folder too")
            name = below(target, path) if path else target; sha = hashlib.sha256()
            if self.members is None: os.makedirs(os.path.dirname(name), exist_ok=True)
            mode = 0o666 if self.members is None else 0o600
            with open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as out:
                for part in itertools.chain(*(self.decoded(span, DELTAS_MAX) for span in spans)):
                    out.write(part); sha.update(part)
            need(sha.digest() == expected, "sha256 differs")
        folders = [member for member in self.members or [] if member.kind == 1]
        others = sorted([member for member in self.members or [] if member.kind != 1], key=lambda m: m.kind)
        for member in others + folders[::-1]: finish_member(target, member)  # files, links, the innermost folders
    def decoded(self, span, deltas):
        """Sections 4.2 to 4.5: the blocks of a span, each proven; then its md5.  At most `deltas` deltas are read."""
        WHERE[1:] = [("header ", "tensor ", "bytes ")[span.kind] + ascii(span.name)]; own = hashlib.md5()
        base = self.bases.find(self, span, deltas - 1) if span.base else None
        for b, (checksum, coded, codec, version, place) in enumerate(span.blocks):
            at = b << span.shift; n = min(1 << span.shift, span.len - at); WHERE[2:] = [f"block {b}"]
            known = 1 <= version <= 1 + (codec in R32)
            need(known, f"codec {codec} of version {version}", NotImplementedError)
            need(coded <= n + 1024, "too long")
            part = decode(self.get(place), n, 1 << span.lanes, codec, self.get(span.tables), version,
                          base and base[at:at + n])
            need(len(part) == n and xxh3(part) == checksum, "checksum differs")
            own.update(part); yield part
        need(own.digest() == span.md5, "md5 of the span differs"); WHERE[1:] = []
    def place(self, n):
        """Section 5: where the next n bytes of the data are."""
        p = self.p; self.p = align(p + n, 16); need(self.p <= self.tail, "cut off"); return range(p, p + n)
    def get(self, place): return self.data[place.start:place.stop]
def read_sections(index):
    """Section 4: {tag: payload}."""
    found, p, last = {}, 0, 0
    while p < len(index):
        tag, flags, stored, plain = struct.unpack_from("<IIQQ", index, p)
        payload, p = index[p + 24:p + 24 + stored], align(p + 24 + stored, 8)
        need(1 <= tag <= 5 or not flags & 1, f"section {tag} is unknown", NotImplementedError)
        need(last < tag and flags < 4 and plain <= 1 << (26 if flags & 2 else 28) and p <= len(index) and (
            plain == stored if flags < 2 else tag not in (3, 4)), f"section {tag} has a bad head")
        found[tag], last = zstd(payload, plain) if flags > 1 and tag in (1, 2, 5, 8) else payload, tag
    need(found.keys() >= {1, 2, 3, 4}, "a section is missing"); return found
Member = collections.namedtuple("Member", "kind mode uid gid time path target attributes")
def read_members(section):
    """Section 4.6: the records."""
    data = io.BytesIO(section); take = lambda n: need(len(v := data.read(n)) == n, "members cut off") or v
    while data.tell() < len(section):
        kind, mode, path, target, count, uid, gid, ns, s = struct.unpack("<BxHHHIIIIq", take(32))
        path, target, attributes = take(path), take(target), []
        for _ in range(count):
            name, size = struct.unpack("<HxxI", take(8)); attributes.append((take(name), take(size)))
            need(re.fullmatch(rb"user\.[^\0]{1,250}", attributes[-1][0]) and size <= 1 << 16, "bad attribute")
        names = [name for name, _ in attributes]
        need(sum(len(name) + 1 for name in names) <= 1 << 16, "too many attributes")
        need(kind < 3 and mode < 1 << 12 and ns < 10**9 and names == sorted(set(names)), "bad member")
        need(kind == 0 or (0 < len(target) < 4096 and b"\0" not in target) == (kind == 2), "bad target")
        path.decode(), target.decode(); yield Member(kind, mode, uid, gid, s * 10**9 + ns, path, target, attributes)
def check_members(members, files, is_folder):
    """Section 4.6: what the records must be together."""
    before, left = {}, [(path, length, sha) for path, length, sha, _ in files]
    content = {path: rest for path, *rest in left}; last = None
    need(is_folder and 0 < len(members) <= 1000000 and (members[0].kind, members[0].path) == (1, b""), "members")
    for member in members:
        need(last is None or member.path > last and PATH.fullmatch(member.path), "bad path of a member")
        last = member.path
        need(not last or before.get(last.rpartition(b"/")[0]) == (1, b""), "a member in no folder")
        need(member.kind or left and left.pop(0)[0] == last, "files and members differ")
        need(member.kind or not member.target or before.get(member.target) == (0, b"")
             and content[member.target] == content[last], "another name of another file")
        before[last] = member.kind, member.target if member.kind == 0 else b""
    need(not left, "a file that is no member")
def below(folder, path): return os.path.join(folder, *path.decode().split("/")) if path else folder
def stays_within(path, target):
    """Section 4.6: whether a link cannot lead out."""
    up, names = path.count(b"/"), [part for part in target.split(b"/") if part not in (b"", b".")]
    while names[:1] == [b".."] and up: names.pop(0); up -= 1
    return not target.startswith(b"/") and b".." not in names
def finish_member(target, member):
    """Section 4.6: makes a link; gives a file or folder its owner, permissions and time."""
    name, owner = below(target, member.path), (member.uid, member.gid)
    if member.kind == 0 and member.target:
        os.remove(name); os.link(below(target, member.target), name); return
    if member.kind == 2 and not stays_within(member.path, member.target):
        print(f"not made: {ascii(name)}, a link out of its folder", file=sys.stderr); return
    if member.kind == 2: os.symlink(member.target.decode(), name)
    if hasattr(os, "geteuid") and os.geteuid() == 0: os.chown(name, *owner, follow_symlinks=False)
    if member.kind < 2: os.chmod(name, member.mode & 0o777)
    os.utime(name, ns=(member.time, member.time), follow_symlinks=False)
def read_bases(section):
    """Section 4.5: an iterator that gives BLAKE3 and name of the base of each span, or None."""
    if section is None: return
    data, bases = io.BytesIO(section), []
    for _ in range(number(data.read(4))):
        digest, name_len = struct.unpack("<32sI", data.read(36)); name = data.read(name_len)
        need(len(name) == name_len, "cut off"); bases.append((digest, name.decode()))
    for of, in struct.iter_unpack("<I", data.read()): yield bases[of - 1] if of else None

# ---- bases ----
DELTAS_MAX = 4  # an image may stand on another delta, to a depth
class Tensor:
    """A tensor that may be a base; `read` gives its bytes, if it takes at most so many deltas."""
    def __init__(self, path, name, length, is_delta, read):
        self.path, self.name, self.len, self.is_delta, self.read, self.blake3 = path, name, length, is_delta, read, None
class Bases:
    """The tensors of the files and folders given by --base.  They are opened when a base is first needed."""
    def __init__(self, places, files):
        self.places, self.files, self.tensors, self.faults, self.missing = places, files, None, [], {}
    def open_all(self):
        self.tensors = []
        for place in self.places:
            below = [os.path.join(at, name) for at, _, names in os.walk(place) for name in names]
            for path in sorted(below) if os.path.isdir(place) else [place]:
                if path == place or path.endswith((".bs", ".safetensors")): self.open(path)
    def open(self, path):
        try:
            f = self.files.enter_context(open(path, "rb"))
            data = self.files.enter_context(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
            is_image = data[:8] == MAGIC or path.endswith(".bs")
            self.tensors += self.of_image(path, data) if is_image else of_safetensors(path, data)
        except Exception as e:  # another file may hold what is needed
            self.faults.append(f"{path}: {str(e) or type(e).__name__}")
    def of_image(self, path, data):
        image = Image(data, self)
        for span in image.spans:
            read = lambda deltas, span=span: b"".join(image.decoded(span, deltas))
            yield Tensor(path, span.name, span.len, bool(span.base), read)
    def find(self, image, span, deltas):
        """The bytes of the base of a span of an image.  Tensors with its name are tried first, of these the one from
        where the last base was; then all of its length."""
        where = WHERE[:]
        if self.tensors is None: self.open_all()
        digest, name = span.base
        alike = [t for t in self.tensors if t.len == span.len and t.blake3 in (None, digest)
                 and t.is_delta <= deltas] if self.missing.get(digest, -1) < deltas else []
        key = lambda t: (t.blake3 is None, t.name != name, t.path != image.base_path, t.is_delta)
        for tensor in sorted(alike, key=key):
            try:
                data = tensor.read(deltas); tensor.blake3 = tensor.blake3 or blake3(data)
                if tensor.blake3 == digest: image.base_path = tensor.path; return data
            except MissingBase: pass  # what stands on something unknown is unknown itself
            except Exception as e: self.faults.append(", ".join(WHERE) + f": {e}")
            finally: WHERE[:] = where
        self.missing[digest] = max(deltas, self.missing.get(digest, -1))
        faults = "".join(f"; {fault}" for fault in sorted({*self.faults}))
        raise MissingBase(f"its base, a tensor {ascii(name)} of BLAKE3 {digest.hex()}, is not in "
                          + (", ".join(self.places) or "any place: none was named by --base") + faults)
def of_safetensors(path, data):
    size = number(data[:8]); header = json.loads(data[8:8 + size]); header.pop("__metadata__", None)
    for name, tensor in header.items():
        start, end = (8 + size + p for p in tensor["data_offsets"])
        need(8 + size <= start <= end <= len(data), "cut off")
        yield Tensor(path, name, end - start, False, lambda _, start=start, end=end: data[start:end])

def main():
    cli = argparse.ArgumentParser(description=__doc__); cli.add_argument("--force", action="store_true")
    cli.add_argument("--base", action="append", default=[], metavar="PLACE", help="where bases are looked for: "
                     "a .safetensors, a .bs, which may be a delta itself, or a folder of them; may be given again")
    cli.add_argument("input"); cli.add_argument("output"); args = cli.parse_args()
    to = os.path.abspath(args.output); os.path.lexists(to) and not args.force and cli.error("OUTPUT exists")
    try:
        for place in args.base: os.stat(place)
        with open(args.input, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data, \
                tempfile.TemporaryDirectory(prefix=".decode_bs-", dir=os.path.dirname(to)) as temp, \
                contextlib.ExitStack() as files:
            made = os.path.join(temp, "made"); Image(data, Bases(args.base, files)).restore(made)
            if not (os.path.isdir(made) and os.path.isdir(to)): os.replace(made, to)
            else: shutil.copytree(made, to, copy_function=os.replace, dirs_exist_ok=True)
    except Exception as e:  # whatever hostile bytes make fail is damage
        print(f"{args.input}: {', '.join(WHERE)}: {str(e) or type(e).__name__}", file=sys.stderr)
        kinds = (NotImplementedError, 6), (MissingBase, 5), (OSError, 1), (Exception, 4)
        return next(status for kind, status in kinds if isinstance(e, kind))
if __name__ == "__main__": sys.exit(main())
