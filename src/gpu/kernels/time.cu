// Decodes the blocks of a case file on a GPU, compares every byte with what it must be, and times many
// launches.
//   time CASES [MIB [ROUNDS]]     the blocks are repeated up to MIB of original bytes (1024); 20 rounds
#include <algorithm>

#include "cases.h"
#include "decode.cu"

using namespace bigsmall;

static void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(error));
}

template <class T>
static T* to_device(const std::vector<T>& items) {
    T* there = nullptr;
    check(cudaMalloc(&there, std::max<size_t>(items.size() * sizeof(T), 1)), "cudaMalloc");
    check(cudaMemcpy(there, items.data(), items.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    return there;
}

// The cases again and again, each time with coded bytes and a place of its own, so that no cache holds them
// all.
static Cases repeated(const Cases& cases, uint64_t out_len) {
    Cases many = cases;
    while (many.out.size() + cases.out.size() <= out_len && !cases.out.empty()) {
        for (Block block : cases.blocks) {
            block.coded_at += many.data.size();
            block.out_at += many.out.size();
            many.blocks.push_back(block);
        }
        many.status.insert(many.status.end(), cases.status.begin(), cases.status.end());
        many.data.insert(many.data.end(), cases.data.begin(), cases.data.end());
        many.out.insert(many.out.end(), cases.out.begin(), cases.out.end());
    }
    return many;
}

static void launch(const Job& job) {
    bigsmall_decode<<<grid_of(job.block_count), 32 * kWarps>>>(job);
    check(cudaGetLastError(), "launch");
}

static float median_milliseconds(const Job& job, int rounds) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<float> times(rounds);
    for (float& time : times) {
        check(cudaEventRecord(begin), "cudaEventRecord");
        launch(job);
        check(cudaEventRecord(end), "cudaEventRecord");
        check(cudaEventSynchronize(end), "decode");
        check(cudaEventElapsedTime(&time, begin, end), "cudaEventElapsedTime");
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

int main(int argument_count, char** arguments) {
    if (argument_count < 2) fail("time CASES [MIB [ROUNDS]]");
    uint64_t mib = argument_count > 2 ? strtoull(arguments[2], nullptr, 10) : 1024;
    int rounds = argument_count > 3 ? std::max(atoi(arguments[3]), 1) : 20;
    Cases cases = repeated(read_cases(arguments[1]), mib << 20);
    auto count = static_cast<uint32_t>(cases.blocks.size());
    std::vector<uint8_t> out(cases.out.size(), 0xa5);
    std::vector<uint32_t> status(count, 99);
    Job job = {to_device(cases.data), to_device(cases.blocks), to_device(cases.tables),
               to_device(cases.slots), to_device(out), to_device(status), count};
    launch(job);
    check(cudaDeviceSynchronize(), "decode");
    check(cudaMemcpy(out.data(), job.out, out.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    check(cudaMemcpy(status.data(), job.status, 4 * size_t{count}, cudaMemcpyDeviceToHost), "cudaMemcpy");
    uint64_t len = 0;
    for (size_t number = 0; number < count; ++number) {
        check_block(cases, number, status[number], out.data() + cases.blocks[number].out_at);
        if (status[number] == kWellFormed) len += cases.blocks[number].out_len;
    }
    float time = median_milliseconds(job, rounds);
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    printf("%s, %s: %u blocks as they must be, %.3f GB, median of %d %.3f ms: %.1f GB/s\n",
           properties.name, arguments[1], count, len / 1e9, rounds, time, len / 1e6 / time);
}
