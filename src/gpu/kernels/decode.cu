// The kernel: a launch decodes any number of blocks, each by one warp, whatever codec each of them has.
#include "block.cuh"
#include "r16.cuh"
#include "r32.cuh"
#include "warp.cuh"

namespace bigsmall {

// What a warp shares: only one of them is in use.
union WarpMemory {
    uint32_t r16_slots[kR16Slots];
    R32End r32_end;
};

__device__ inline Status decode_raw(const Block& block, const uint8_t* coded, uint8_t* out) {
    if (block.coded_len != block.out_len) return kDamaged;
    uint32_t words = block.out_len / 4;
    for (uint32_t i = thread(); i < words; i += 32) {
        reinterpret_cast<uint32_t*>(out)[i] = load32(coded + 4 * i);
    }
    uint32_t last = 4 * words + thread();
    if (last < block.out_len) out[last] = static_cast<uint8_t>(load8(coded + last));
    return kWellFormed;
}

__device__ inline Status decode_const(const Block& block, const uint8_t* coded, uint8_t* out) {
    uint32_t len = block.coded_len;
    if (len != 1 && len != 2 && len != 4 && len != 8) return kDamaged;
    uint32_t mine[4];
    // the four bytes of a thread begin at a multiple of four, 128 bytes on at the same place of the pattern
    for (uint32_t i = 0; i < 4; ++i) mine[i] = load8(coded + (4 * thread() + i) % len);
    uint32_t word = mine[0] | mine[1] << 8 | mine[2] << 16 | mine[3] << 24;
    uint32_t words = block.out_len / 4;
    for (uint32_t i = thread(); i < words; i += 32) reinterpret_cast<uint32_t*>(out)[i] = word;
    uint32_t last = 4 * words + thread();
    if (last < block.out_len) out[last] = static_cast<uint8_t>(load8(coded + last % len));
    return kWellFormed;
}

__device__ inline Status decode_block(const Job& job, const Block& block, WarpMemory& memory) {
    const uint8_t* coded = job.data + block.coded_at;
    uint8_t* out = job.out + block.out_at;
    uint32_t newest = block.codec == kR32Bf16 ? 2 : 1;
    if (block.version < 1 || block.version > newest) return kNotHere;
    if (block.codec == kRaw) return decode_raw(block, coded, out);
    if (block.codec == kConst) return decode_const(block, coded, out);
    if (block.lanes_shift != kLanesShift) return kNotHere;
    if (block.codec == kR16) return decode_r16(block, coded, out, memory.r16_slots);
    if (block.codec != kR32Bf16) return kNotHere;
    if (block.tables == kNoTables) return kDamaged;
    const Tables& tables = job.tables[block.tables];
    const uint32_t* slots = job.slots + uint64_t{tables.first} * kTableSlots;
    return decode_r32(block, tables, slots, coded, out, memory.r32_end);
}

}  // namespace bigsmall

// Launched with `grid_of(job.block_count)` thread blocks of `32 * kWarps` threads.
extern "C" __global__ void __launch_bounds__(32 * bigsmall::kWarps) bigsmall_decode(const bigsmall::Job job) {
    __shared__ bigsmall::WarpMemory memory[bigsmall::kWarps];
    uint32_t warp = threadIdx.x / 32;
    uint32_t number = blockIdx.x * bigsmall::kWarps + warp;
    if (number >= job.block_count) return;
    const bigsmall::Block block = job.blocks[number];
    bigsmall::Status status = bigsmall::decode_block(job, block, memory[warp]);
    if (bigsmall::thread() == 0) job.status[number] = status;
}
