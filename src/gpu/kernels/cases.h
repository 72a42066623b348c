// A file of blocks together with what they must become, written by tests/it/gpu_kernels.rs: read here and
// compared, on a CPU or a GPU.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "block.cuh"

namespace bigsmall {

// The parts follow it in the order of the fields of `Cases`.
struct CasesHeader {
    char magic[8];
    uint32_t block_count;
    uint32_t tables_count;
    uint64_t slots_len;  // entries
    uint64_t data_len;
    uint64_t out_len;
};

struct Cases {
    std::vector<Block> blocks;
    std::vector<Tables> tables;
    std::vector<uint32_t> slots;
    std::vector<uint32_t> status;  // what each block must give
    std::vector<uint8_t> data;
    std::vector<uint8_t> out;      // the original bytes of the blocks that are well formed
};

[[noreturn]] inline void fail(const std::string& what) {
    fprintf(stderr, "%s\n", what.c_str());
    exit(1);
}

template <class T>
std::vector<T> read_items(FILE* file, uint64_t count) {
    std::vector<T> items(count);
    if (fread(items.data(), sizeof(T), count, file) != count) fail("the case file ends too soon");
    return items;
}

inline Cases read_cases(const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) fail(std::string(path) + " cannot be opened");
    CasesHeader header = read_items<CasesHeader>(file, 1)[0];
    if (memcmp(header.magic, "BSCASES1", 8) != 0) fail(std::string(path) + " is no case file");
    Cases cases;
    cases.blocks = read_items<Block>(file, header.block_count);
    cases.tables = read_items<Tables>(file, header.tables_count);
    cases.slots = read_items<uint32_t>(file, header.slots_len);
    cases.status = read_items<uint32_t>(file, header.block_count);
    cases.data = read_items<uint8_t>(file, header.data_len);
    cases.out = read_items<uint8_t>(file, header.out_len);
    fclose(file);
    return cases;
}

// Ends the program unless block `number` gave the status and the bytes that it must.
inline void check_block(const Cases& cases, size_t number, uint32_t status, const uint8_t* out) {
    const Block& block = cases.blocks[number];
    std::string name = "block " + std::to_string(number) + " (codec " + std::to_string(block.codec) + ")";
    if (status != cases.status[number]) {
        fail(name + ": status " + std::to_string(status) + ", not " + std::to_string(cases.status[number]));
    }
    const uint8_t* expected = cases.out.data() + block.out_at;
    if (status == kWellFormed && block.out_len > 0 && memcmp(out, expected, block.out_len) != 0) {
        fail(name + ": wrong bytes");
    }
}

}  // namespace bigsmall
