// Decodes the blocks of case files by the CUDA kernels, on the CPU, and compares.
//   emulate CASES...
#include "shim.h"

#include <memory>

#include "cases.h"
#include "decode.cu"

using namespace bigsmall;

// The launch that the threads of the shim see: CUDA would hand it to each of them.
static Job job;

static void kernel() { bigsmall_decode(job); }

// A copy with nothing behind it, so that the address sanitizer sees every read and write outside.
template <class T>
static std::unique_ptr<T, decltype(&free)> copy_of(const T* items, size_t count) {
    auto* copy = static_cast<T*>(malloc(count * sizeof(T)));
    if (count > 0) memcpy(copy, items, count * sizeof(T));
    return {copy, free};
}

// Each block by a launch of its own, with its own bytes only.
static void each_alone(const Cases& cases) {
    for (size_t number = 0; number < cases.blocks.size(); ++number) {
        Block block = cases.blocks[number];
        auto coded = copy_of(cases.data.data() + block.coded_at, block.coded_len);
        std::vector<uint8_t> rubbish(block.out_len, 0xa5);
        auto out = copy_of(rubbish.data(), block.out_len);
        block.coded_at = block.out_at = 0;
        Tables tables = {};
        if (block.tables != kNoTables) tables = cases.tables[block.tables];
        const uint32_t* first = cases.slots.data() + size_t{tables.first} * kTableSlots;
        auto slots = copy_of(first, size_t{tables.count} * kTableSlots);
        tables.first = 0;
        if (block.tables != kNoTables) block.tables = 0;
        uint32_t status = 99;
        job = {coded.get(), &block, &tables, slots.get(), out.get(), &status, 1};
        blockIdx.x = 0;
        shim::warp().run(0, true, kernel);
        check_block(cases, number, status, out.get());
    }
}

// All blocks by one launch, where they lie, the threads of each warp in falling order.
static void all_together(const Cases& cases) {
    auto count = static_cast<uint32_t>(cases.blocks.size());
    std::vector<uint8_t> out(cases.out.size(), 0xa5);
    std::vector<uint32_t> status(count, 99);
    job = {cases.data.data(), cases.blocks.data(), cases.tables.data(), cases.slots.data(),
           out.data(), status.data(), count};
    for (blockIdx.x = 0; blockIdx.x < grid_of(count); ++blockIdx.x) {
        for (uint32_t warp = 0; warp < kWarps; ++warp) shim::warp().run(warp, false, kernel);
    }
    for (size_t number = 0; number < count; ++number) {
        check_block(cases, number, status[number], out.data() + cases.blocks[number].out_at);
    }
}

int main(int argument_count, char** arguments) {
    for (int i = 1; i < argument_count; ++i) {
        Cases cases = read_cases(arguments[i]);
        each_alone(cases);
        all_together(cases);
        printf("%s: %zu blocks as they must be\n", arguments[i], cases.blocks.size());
    }
}
