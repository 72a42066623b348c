// R32 blocks of bf16 (docs/format.md, section 8; codec 4, versions 1 and 2), decoded by one warp.
#pragma once
#include "block.cuh"
#include "top.cuh"
#include "warp.cuh"

namespace bigsmall {

constexpr uint32_t kStripSteps = 512 / kLanes;
constexpr uint32_t kCarriedMax = 2 * kLanes;

enum Coding : uint32_t { kPlaneRaw = 0, kPlaneConst = 1, kPlaneRans = 2 };

// What waits for the end of a block: the states carry the end of its packed plane, so the last steps, at most
// three, keep their symbols until then. Memory that a warp shares.
struct R32End {
    uint16_t symbols[3][32];
    uint16_t packed[3 * kGroupBytes / 2];
};

// How the lanes stand, and what they need for a step.
struct R32Lanes {
    uint32_t even, odd;
    Queue<uint16_t> words;

    // Advances both lanes with `table` and gives their symbols, the even one's in the low byte.
    __device__ bool step(const uint32_t* table, uint32_t bits, uint32_t& symbols) {
        uint32_t mask = (1u << bits) - 1;
        uint32_t even_entry = __ldg(table + (even & mask)), odd_entry = __ldg(table + (odd & mask));
        even = (even_entry >> 8 & 4095) * (even >> bits) + (even_entry >> 20);
        odd = (odd_entry >> 8 & 4095) * (odd >> bits) + (odd_entry >> 20);
        bool even_short = even < 1u << 16, odd_short = odd < 1u << 16;
        uint32_t even_word = 0, odd_word = 0;
        if (!words.take(even_short, odd_short, even_word, odd_word)) return false;
        if (even_short) even = even << 16 | even_word;
        if (odd_short) odd = odd << 16 | odd_word;
        symbols = (even_entry & 255) | (odd_entry & 255) << 8;
        return true;
    }
};

// Reads `width` bits, at most 15, from bit `at` on; only words that hold some of them are read. `words` is a
// multiple of 2.
__device__ inline uint32_t read_bits(const uint8_t* words, uint32_t at, uint32_t width) {
    if (width == 0) return 0;
    uint32_t bits = load16(words + at / 16 * 2);
    if (at % 16 + width > 16) bits |= load16(words + at / 16 * 2 + 2) << 16;
    return bits >> at % 16 & ((1u << width) - 1);
}

// Reads the states of version 2, and takes them off `at`. False if the block, `len` bytes, ends too soon.
__device__ inline bool read_packed_states(const uint8_t* coded, uint32_t len, uint64_t& at, R32Lanes& lanes) {
    constexpr uint32_t kFixed = 2 * kLanes + kLanes / 2;
    if (at + kFixed > len) return false;
    const uint8_t* bytes = coded + at;
    uint32_t low = load32(bytes + 4 * thread());
    uint32_t widths = load8(bytes + 2 * kLanes + thread());
    uint32_t even_width = widths & 15, odd_width = widths >> 4;
    uint32_t end = sum_up_to(even_width + odd_width);
    uint32_t total = __shfl_sync(kAllThreads, end, 31);
    at += kFixed + (total + 15) / 16 * 2;
    if (at > len) return false;
    const uint8_t* high = bytes + kFixed;
    // the bits up to the end of the last word are zero
    if (total % 16 != 0 && load16(high + total / 16 * 2) >> total % 16 != 0) return false;
    uint32_t first = end - even_width - odd_width;
    uint32_t even_high = 1u << even_width | read_bits(high, first, even_width);
    uint32_t odd_high = 1u << odd_width | read_bits(high, first + even_width, odd_width);
    lanes.even = even_high << 16 | (low & 0xffff);
    lanes.odd = odd_high << 16 | low >> 16;
    return true;
}

// Reads the states of version 1: four bytes a lane.
__device__ inline bool read_plain_states(const uint8_t* coded, uint32_t len, uint64_t& at, R32Lanes& lanes) {
    if (at + 4 * kLanes > len) return false;
    lanes.even = load32(coded + at + 8 * thread());
    lanes.odd = load32(coded + at + 8 * thread() + 4);
    at += 4 * kLanes;
    return true;
}

// The packed ids of the tables that strips use.
struct StripIds {
    const uint8_t* bytes;
    uint32_t strips;
    uint32_t bits;  // of an id: 0, 2 or 4

    __device__ static uint32_t bits_for(uint32_t count) { return count <= 1 ? 0 : count <= 4 ? 2 : 4; }

    __device__ uint32_t len() const { return (strips * bits + 7) / 8; }

    __device__ uint32_t id(uint32_t strip) const {
        if (bits == 0) return 0;
        uint32_t at = strip * bits;
        return load8(bytes + at / 8) >> at % 8 & ((1u << bits) - 1);
    }

    // Whether the bits behind the last id are zero.
    __device__ bool end_with_zeros() const {
        uint32_t used = strips * bits % 8;
        return used == 0 || load8(bytes + len() - 1) >> used == 0;
    }
};

// The parts of a block. Places are pointers into the block.
struct R32Parts {
    uint32_t coding;
    uint32_t value;          // const: the byte; rans: the number of words
    R32Lanes lanes;          // rans only
    StripIds ids;            // rans only
    const uint8_t* symbols;  // raw only
    const uint8_t* lits;
    uint32_t lits_len;
    const uint8_t* packed;
    uint32_t packed_len;     // without what is carried
    uint32_t carried_len;

    // Takes the plane's payload, literals apart, off `at`.
    __device__ bool read_plane(const Block& block, const Tables& tables, const uint8_t* coded, uint64_t& at) {
        uint32_t elements = block.out_len / 2;
        if (coding == kPlaneRaw) {
            symbols = coded + at;
            at += elements;
            return value == 0;
        }
        if (coding == kPlaneConst) return value < 256;
        if (coding != kPlaneRans || tables.count == 0) return false;
        bool states_fit = block.version == 1 ? read_plain_states(coded, block.coded_len, at, lanes)
                                             : read_packed_states(coded, block.coded_len, at, lanes);
        if (!states_fit) return false;
        lanes.words = {reinterpret_cast<const uint16_t*>(coded + at), value};
        at += 2 * uint64_t{value};
        uint32_t strips = (elements + 511) / 512;
        ids = {coded + at, strips, StripIds::bits_for(tables.count)};
        at += ids.len();
        return at <= block.coded_len && ids.end_with_zeros();
    }

    // Finds all parts; false if they do not make up the block exactly.
    __device__ bool read(const Block& block, const Tables& tables, const uint8_t* coded) {
        uint32_t align = block.version == 1 ? 16 : 4;
        uint64_t at = block.version == 1 ? 16 : 8;
        if (block.coded_len < at || !all_zero(coded + 8, static_cast<uint32_t>(at - 8))) return false;
        uint32_t head = load32(coded);
        coding = head & 255;
        lits_len = head >> 8;
        value = load32(coded + 4);
        if (!read_plane(block, tables, coded, at)) return false;
        lits = coded + at;
        at += lits_len;
        uint32_t padding = static_cast<uint32_t>(-at % align);
        if (at + padding > block.coded_len || !all_zero(coded + at, padding)) return false;
        at += padding;
        packed = coded + at;
        uint32_t whole_len = (block.out_len / 2 + kLanes - 1) / kLanes * kGroupBytes;
        bool carries = block.version > 1 && coding == kPlaneRans;
        carried_len = !carries ? 0 : whole_len < kCarriedMax ? whole_len : kCarriedMax;
        packed_len = whole_len - carried_len;
        return at + packed_len == block.coded_len;
    }
};

// A block whose symbols stand there as they are, or are all the same.
__device__ inline bool merge_plain(const R32Parts& parts, Merge& merge) {
    PackedPlace place = PackedPlace::of_thread();
    const uint8_t* group = parts.packed;
    for (uint32_t first = 0; first < merge.elements; first += kLanes, group += kGroupBytes) {
        uint32_t symbols = parts.value * 0x101;
        uint32_t count = step_count(merge.elements, first), mine = 2 * thread();
        if (parts.coding == kPlaneRaw && mine < count) {
            const uint8_t* at = parts.symbols + first + mine;
            symbols = mine + 1 < count ? load8(at) | load8(at + 1) << 8 : load8(at);
        }
        uint32_t fields = place.fields(load16(group + place.low_at), load16(group + place.high_at));
        if (!merge.step(first, symbols, fields)) return false;
    }
    return true;
}

// Checks the states at the end, and puts together the end of the packed plane from what stands in the block
// from `cut` on and from what the states carry. Carried bytes that are not used must be zero.
__device__ inline bool packed_end(const R32Parts& parts, const uint8_t* cut, uint32_t cut_len, R32End& end) {
    const R32Lanes& lanes = parts.lanes;
    uint32_t unused = (kCarriedMax - parts.carried_len) / 2;
    uint32_t even_lane = 2 * thread(), odd_lane = even_lane + 1;
    uint32_t even = lanes.even & 0xffff, odd = lanes.odd & 0xffff;
    bool even_used = even_lane >= unused, odd_used = odd_lane >= unused;
    bool at_the_end = lanes.even >> 16 == 1 && lanes.odd >> 16 == 1;
    bool unused_is_zero = (even_used || even == 0) && (odd_used || odd == 0);
    if (!__all_sync(kAllThreads, at_the_end && unused_is_zero)) return false;
    uint32_t cut_words = cut_len / 2;
    if (thread() < cut_words) end.packed[thread()] = static_cast<uint16_t>(load16(cut + 2 * thread()));
    if (even_used) end.packed[cut_words + even_lane - unused] = static_cast<uint16_t>(even);
    if (odd_used) end.packed[cut_words + odd_lane - unused] = static_cast<uint16_t>(odd);
    __syncwarp();
    return true;
}

// A block whose symbols are coded; `slots` is the first of the tables that its strips choose from.
__device__ inline bool merge_rans(
    R32Parts& parts, const Tables& tables, const uint32_t* slots, Merge& merge, R32End& end) {
    PackedPlace place = PackedPlace::of_thread();
    uint32_t steps = (merge.elements + kLanes - 1) / kLanes;
    uint32_t whole = parts.packed_len / kGroupBytes;  // steps whose packed group stands whole in the block
    const uint8_t* group = parts.packed;
    const uint32_t* table = slots;
    for (uint32_t step = 0; step < steps; ++step) {
        if (step % kStripSteps == 0) {
            uint32_t id = parts.ids.id(step / kStripSteps);
            if (id >= tables.count) return false;
            table = slots + id * kTableSlots;
        }
        uint32_t symbols;
        if (!parts.lanes.step(table, tables.bits, symbols)) return false;
        if (step < whole) {
            uint32_t fields = place.fields(load16(group + place.low_at), load16(group + place.high_at));
            if (!merge.step(step * kLanes, symbols, fields)) return false;
            group += kGroupBytes;
        } else {
            end.symbols[step - whole][thread()] = static_cast<uint16_t>(symbols);
        }
    }
    if (parts.lanes.words.left != 0) return false;
    if (!packed_end(parts, group, parts.packed_len - whole * kGroupBytes, end)) return false;
    for (uint32_t step = whole; step < steps; ++step) {
        const uint16_t* last = end.packed + (step - whole) * kGroupBytes / 2;
        uint32_t fields = place.fields(last[place.low_at / 2], last[place.high_at / 2]);
        if (!merge.step(step * kLanes, end.symbols[step - whole][thread()], fields)) return false;
    }
    return true;
}

// `slots` is the first table of the span, `end` memory that the warp shares.
__device__ inline Status decode_r32(
    const Block& block, const Tables& tables, const uint32_t* slots, const uint8_t* coded, uint8_t* out,
    R32End& end) {
    if (block.out_len == 0 || block.out_len % 2 != 0 || tables.codec != kR32Bf16) return kDamaged;
    R32Parts parts;
    if (!parts.read(block, tables, coded)) return kDamaged;
    Merge merge = {out, block.out_len / 2, tables.base, {parts.lits, parts.lits_len}};
    bool merged = parts.coding == kPlaneRans ? merge_rans(parts, tables, slots, merge, end)
                                             : merge_plain(parts, merge);
    return merged && merge.lits.left == 0 ? kWellFormed : kDamaged;
}

}  // namespace bigsmall
