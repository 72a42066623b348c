// The `top` plane and the packed plane put together to bf16 (docs/format.md, section 8), one step of 64
// elements at a time.
#pragma once
#include "block.cuh"
#include "warp.cuh"

namespace bigsmall {

constexpr uint32_t kGroupBytes = 48;
constexpr uint32_t kEscape = 63;

// Where this thread's two elements of a group of 64 have their packed fields: the low four bits in one pair
// of bytes, the high two in another.
struct PackedPlace {
    uint32_t low_at, low_shift, high_at, high_shift;

    __device__ static PackedPlace of_thread() {
        uint32_t t = thread();
        return {2 * (t % 16), 4 * (t / 16), 32 + 2 * (t % 8), 2 * (t / 8)};
    }

    // The two fields of 6 bits, from the two pairs of bytes: the even element's in the low byte.
    __device__ uint32_t fields(uint32_t low, uint32_t high) const {
        return (low >> low_shift & 0x0f0f) | (high >> high_shift & 0x0303) << 4;
    }
};

// Makes elements, and takes the literals of those that escape.
struct Merge {
    uint8_t* out;  // of the block
    uint32_t elements;
    uint32_t base;
    Queue<uint8_t> lits;

    // One step from this thread's two symbols and two packed fields, the even element's in the low byte.
    // False, for all threads alike, if there are too few literals or a missing element has bits.
    __device__ bool step(uint32_t first, uint32_t symbols, uint32_t fields) {
        uint32_t count = step_count(elements, first), mine = 2 * thread();
        uint32_t even_code = symbols >> 2 & 63, odd_code = symbols >> 10 & 63;
        uint32_t even_exponent = even_code == 0 ? 0 : base + even_code;
        uint32_t odd_exponent = odd_code == 0 ? 0 : base + odd_code;
        // elements beyond the end take no literal
        bool even_escapes = even_code == kEscape && mine < count;
        bool odd_escapes = odd_code == kEscape && mine + 1 < count;
        if (__any_sync(kAllThreads, even_escapes || odd_escapes)
            && !lits.take(even_escapes, odd_escapes, even_exponent, odd_exponent)) {
            return false;
        }
        if (count < kLanes) {
            uint32_t missing = mine >= count ? fields : mine + 1 >= count ? fields >> 8 : 0;
            if (!__all_sync(kAllThreads, missing == 0)) return false;
        }
        // of both elements at once: sign, upper two and lower five bits of the mantissa
        uint32_t spread = (fields & 63) | (fields & 0x3f00) << 8;
        uint32_t mantissa = (symbols & 3) << 5 | (symbols & 0x300) << 13;
        uint32_t pair = (spread & 0x200020) << 10 | even_exponent << 7 | odd_exponent << 23 | mantissa
            | (spread & 0x1f001f);
        store_pair(out + 2 * first, count, pair);
        return true;
    }
};

}  // namespace bigsmall
