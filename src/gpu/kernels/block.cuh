// What a launch is given: shared by the kernels and by the programs that launch them. All offsets and lengths
// are in bytes unless a comment says otherwise.
#pragma once
#include <stdint.h>

namespace bigsmall {

// What became of a block.
enum Status : uint32_t {
    kWellFormed = 0,  // its original bytes are at the output, the checksum of them not yet compared
    kDamaged = 1,     // what is at the output is rubbish
    kNotHere = 2,     // another codec, version or number of lanes: a decoder on the CPU may know it
};

// Codecs that are decoded here (docs/format.md, section 6).
enum Codec : uint8_t { kRaw = 0, kConst = 1, kR16 = 3, kR32Bf16 = 4 };

constexpr uint32_t kNoTables = 0xffffffff;
constexpr uint32_t kTableSlots = 4096;

// A block, from the index of an image.
struct Block {
    uint64_t coded_at;    // its first coded byte, counted from Job::data; a multiple of 16
    uint64_t out_at;      // where its first original byte goes, counted from Job::out; a multiple of 4
    uint32_t coded_len;   // coded bytes, all of them in Job::data
    uint32_t out_len;     // original bytes, all of them in Job::out
    uint32_t tables;      // which of Job::tables are its span's; kNoTables if the span has none
    uint8_t codec;        // number of the codec
    uint8_t version;      // version of the codec
    uint8_t lanes_shift;  // log2 of the lanes; only 6 is decoded here
    uint8_t reserved;
};

// The tables of the `top` plane of a span, parsed and checked on the CPU.
struct Tables {
    uint32_t first;  // its first table within Job::slots, in tables of 4096 entries
    uint8_t count;   // how many there are, 0..16
    uint8_t bits;    // log2 of the sum of the frequencies, 8..12; 0 if there are none
    uint8_t base;    // window base, at most 193
    uint8_t codec;   // the R32 codec that they serve
};

// A launch: `block_count` blocks, one warp each. Pointers are to memory of the device.
struct Job {
    const uint8_t* data;    // coded bytes; a multiple of 16
    const Block* blocks;    // block_count of them
    const Tables* tables;   // one for each span that has some
    // tables of 4096 entries: symbol | frequency << 8 | (slot - start of the symbol) << 20
    const uint32_t* slots;
    uint8_t* out;           // original bytes; a multiple of 4
    uint32_t* status;       // block_count of enum Status
    uint32_t block_count;
};

// Warps, and so blocks, of one thread block of CUDA.
constexpr uint32_t kWarps = 4;

// Thread blocks of CUDA that a launch needs.
constexpr uint32_t grid_of(uint32_t block_count) {
    return block_count / kWarps + (block_count % kWarps != 0);
}

}  // namespace bigsmall
