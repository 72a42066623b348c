// What the threads of a warp do together. Thread t holds lanes 2t and 2t + 1, and so elements 2t and 2t + 1
// of each step of 64. Every function here must be called by all 32 threads.
#pragma once
#include <stdint.h>

namespace bigsmall {

constexpr uint32_t kAllThreads = 0xffffffff;
constexpr uint32_t kLanes = 64;
constexpr uint32_t kLanesShift = 6;

__device__ inline uint32_t thread() { return threadIdx.x % 32; }

__device__ inline uint32_t load8(const uint8_t* at) { return __ldg(at); }

// `at` must be a multiple of 2.
__device__ inline uint32_t load16(const uint8_t* at) { return __ldg(reinterpret_cast<const uint16_t*>(at)); }

// `at` must be a multiple of 4.
__device__ inline uint32_t load32(const uint8_t* at) { return __ldg(reinterpret_cast<const uint32_t*>(at)); }

// The sum of `value` over this thread and those before it.
__device__ inline uint32_t sum_up_to(uint32_t value) {
    for (uint32_t distance = 1; distance < 32; distance *= 2) {
        uint32_t before = __shfl_up_sync(kAllThreads, value, distance);
        if (thread() >= distance) value += before;
    }
    return value;
}

// Whether all of up to 32 bytes are zero, as padding is.
__device__ inline bool all_zero(const uint8_t* bytes, uint32_t len) {
    return __all_sync(kAllThreads, thread() >= len || load8(bytes + thread()) == 0);
}

// Bytes or words from which lanes take, in the order of the lanes.
template <class T>
struct Queue {
    const T* next;
    uint32_t left;

    // Every lane that wants one gets one. False, for all threads alike, if there are too few; nothing is read
    // then.
    __device__ bool take(bool even_wants, bool odd_wants, uint32_t& even, uint32_t& odd) {
        uint32_t evens = __ballot_sync(kAllThreads, even_wants);
        uint32_t odds = __ballot_sync(kAllThreads, odd_wants);
        uint32_t taken = __popc(evens) + __popc(odds);
        if (taken > left) return false;
        uint32_t below = (1u << thread()) - 1;
        const T* mine = next + __popc(evens & below) + __popc(odds & below);
        if (even_wants) even = __ldg(mine);
        if (odd_wants) odd = __ldg(mine + even_wants);
        next += taken;
        left -= taken;
        return true;
    }
};

// Writes this thread's two elements, `pair` (the even one in the low half), of a step that has `count`
// elements: 128 bytes a warp. `out` is the place of the step's first element.
__device__ inline void store_pair(uint8_t* out, uint32_t count, uint32_t pair) {
    uint32_t even = 2 * thread();
    if (even + 1 < count) {
        reinterpret_cast<uint32_t*>(out)[thread()] = pair;
    } else if (even < count) {
        reinterpret_cast<uint16_t*>(out)[even] = static_cast<uint16_t>(pair);
    }
}

// Elements of a block of `elements` in the step that begins with element `first`.
__device__ inline uint32_t step_count(uint32_t elements, uint32_t first) {
    return elements - first < kLanes ? elements - first : kLanes;
}

}  // namespace bigsmall
