// R16 blocks (docs/format.md, section 7), decoded by one warp.
#pragma once
#include "block.cuh"
#include "warp.cuh"

namespace bigsmall {

constexpr uint32_t kR16Slots = 256;
constexpr uint32_t kR16SymbolsMax = 16;
constexpr uint32_t kR16SymbolsAt = 16;
constexpr uint32_t kR16FrequenciesAt = 32;
constexpr uint32_t kR16StatesAt = 48;
constexpr uint32_t kR16StreamAt = kR16StatesAt + 2 * kLanes;

// Checks symbols and frequencies and builds the table of slots, in memory that the warp shares:
// symbol | frequency << 8 | (slot - start of the symbol) << 16 | escape << 24.
__device__ inline bool r16_table(const uint8_t* coded, uint32_t* slots) {
    uint32_t head = load32(coded);
    uint32_t count = head & 255, has_escape = head >> 8;  // flags and reserved bytes: 0 or 1
    if (count < 2 || count > kR16SymbolsMax || has_escape > 1) return false;
    uint32_t number = thread();
    bool is_entry = number < kR16SymbolsMax;
    uint32_t symbol = is_entry ? load8(coded + kR16SymbolsAt + number) : 0;
    uint32_t frequency = is_entry ? load8(coded + kR16FrequenciesAt + number) : 0;
    uint32_t before = __shfl_up_sync(kAllThreads, symbol, 1);
    bool symbol_fits = number < count - has_escape ? number == 0 || symbol > before : symbol == 0;
    bool frequency_fits = (number < count) == (frequency > 0);
    uint32_t end = sum_up_to(frequency);
    bool sum_fits = __shfl_sync(kAllThreads, end, 31) == kR16Slots;
    if (!__all_sync(kAllThreads, symbol_fits && frequency_fits && sum_fits)) return false;

    uint32_t is_escape = has_escape & (number == count - 1);
    uint32_t entry = symbol | frequency << 8 | is_escape << 24;
    uint32_t start = end - frequency;
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t of_symbol = __shfl_sync(kAllThreads, entry, i);
        uint32_t first = __shfl_sync(kAllThreads, start, i);
        for (uint32_t offset = thread(); offset < (of_symbol >> 8 & 255); offset += 32) {
            slots[first + offset] = of_symbol | offset << 16;
        }
    }
    __syncwarp();
    return true;
}

// The state after the symbol of `entry`, before a byte is taken.
__device__ inline uint32_t r16_advance(uint32_t state, uint32_t entry) {
    return (entry >> 8 & 255) * (state >> 8) + (entry >> 16 & 255);
}

// A bf16 from its exponent, and mantissa and sign.
__device__ inline uint32_t r16_element(uint32_t exponent, uint32_t rest) {
    uint32_t rotated = exponent << 8 | rest;
    return rotated >> 1 | (rotated & 1) << 15;
}

// `slots` is memory of 256 entries that the warp shares.
__device__ inline Status decode_r16(const Block& block, const uint8_t* coded, uint8_t* out, uint32_t* slots) {
    if (block.coded_len < kR16StreamAt || block.out_len % 2 != 0) return kDamaged;
    uint32_t elements = block.out_len / 2;
    uint32_t lits_len = load32(coded + 4), stream_len = load32(coded + 8), reserved = load32(coded + 12);
    uint64_t used = uint64_t{kR16StreamAt} + stream_len + lits_len;
    uint64_t plane_at = (used + 15) / 16 * 16;
    if (reserved != 0 || plane_at + elements != block.coded_len) return kDamaged;
    if (!all_zero(coded + used, static_cast<uint32_t>(plane_at - used))) return kDamaged;
    if (!r16_table(coded, slots)) return kDamaged;

    const uint8_t* plane = coded + plane_at;
    Queue<uint8_t> stream = {coded + kR16StreamAt, stream_len};
    Queue<uint8_t> lits = {stream.next + stream_len, lits_len};
    uint32_t states = load32(coded + kR16StatesAt + 4 * thread());
    uint32_t even = states & 0xffff, odd = states >> 16;
    for (uint32_t first = 0; first < elements; first += kLanes) {
        uint32_t even_entry = slots[even & 255], odd_entry = slots[odd & 255];
        even = r16_advance(even, even_entry);
        odd = r16_advance(odd, odd_entry);
        bool even_short = even < 256, odd_short = odd < 256;
        uint32_t even_byte = 0, odd_byte = 0;
        if (!stream.take(even_short, odd_short, even_byte, odd_byte)) return kDamaged;
        if (even_short) even = even << 8 | even_byte;
        if (odd_short) odd = odd << 8 | odd_byte;

        uint32_t count = step_count(elements, first), mine = 2 * thread();
        // elements beyond the end take no literal
        bool even_escapes = even_entry >> 24 != 0 && mine < count;
        bool odd_escapes = odd_entry >> 24 != 0 && mine + 1 < count;
        uint32_t even_exponent = even_entry & 255, odd_exponent = odd_entry & 255;
        if (__any_sync(kAllThreads, even_escapes || odd_escapes)
            && !lits.take(even_escapes, odd_escapes, even_exponent, odd_exponent)) {
            return kDamaged;
        }
        uint32_t rest = 0;
        if (mine + 1 < count) {
            rest = load16(plane + first + mine);
        } else if (mine < count) {
            rest = load8(plane + first + mine);
        }
        uint32_t pair = r16_element(even_exponent, rest & 255) | r16_element(odd_exponent, rest >> 8) << 16;
        store_pair(out + 2 * first, count, pair);
    }
    bool at_the_end = __all_sync(kAllThreads, even == 256 && odd == 256);
    return at_the_end && stream.left == 0 && lits.left == 0 ? kWellFormed : kDamaged;
}

}  // namespace bigsmall
