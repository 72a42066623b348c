// Enough of CUDA on a CPU for the kernels in src/gpu/kernels: a warp is 32 fibers that take turns, each
// running until the next operation of the whole warp. Lanes that do not all come to the same operation end
// the program.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
    uint32_t x;
};

inline Index threadIdx, blockIdx;

namespace shim {

constexpr uint32_t kThreads = 32;
constexpr size_t kStackLen = 64 << 10;

enum class Operation : uint32_t { kNone, kBallot, kShuffle, kSync, kEnd };

// What a thread brings to an operation of the warp.
struct Brought {
    Operation operation;
    uint64_t round;
    uint32_t value;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(kStackLen);
    uint64_t round;
    Brought brought[2];  // by parity of the round: others may still read the one before
};

class Warp {
  public:
    // Runs `kernel` on 32 threads of warp `number` of a thread block, in rising or falling order.
    void run(uint32_t number, bool rising, void (*kernel)()) {
        kernel_ = kernel;
        number_ = number;
        rising_ = rising;
        for (Fiber& fiber : fibers_) {
            fiber.round = 0;
            fiber.brought[0] = fiber.brought[1] = {};
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = kStackLen;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, begin, 0);
        }
        current_ = first();
        threadIdx.x = number * kThreads + current_;
        enter(fibers_[current_].stack.data(), kStackLen, &host_, &fibers_[current_].context);
    }

    // Brings a value to the next operation and waits until all threads have.
    void meet(Operation operation, uint32_t value) {
        uint32_t self = current_;
        Fiber& fiber = fibers_[self];
        uint64_t round = ++fiber.round;
        fiber.brought[round % 2] = {operation, round, value};
        pass_on();
        for (const Fiber& other : fibers_) {
            const Brought& brought = other.brought[round % 2];
            if (brought.round != round || brought.operation != operation) die();
        }
    }

    // What thread `number` brought to the operation just met.
    uint32_t value_of(uint32_t number) const {
        return fibers_[number].brought[fibers_[current_].round % 2].value;
    }

    uint32_t current() const { return current_; }

  private:
    uint32_t first() const { return rising_ ? 0 : kThreads - 1; }
    uint32_t last() const { return kThreads - 1 - first(); }

    // Gives the turn to the next thread, and comes back when it is this one's again.
    void pass_on() {
        uint32_t self = current_;
        current_ = (self + (rising_ ? 1 : kThreads - 1)) % kThreads;
        threadIdx.x = number_ * kThreads + current_;
        Fiber& next = fibers_[current_];
        enter(next.stack.data(), kStackLen, &fibers_[self].context, &next.context);
    }

    void leave() {
        if (current_ == last()) {
            enter(host_stack_, host_stack_len_, nullptr, &host_);
        } else {
            pass_on();
        }
        die();  // somebody gave the turn to a thread that had ended
    }

    [[noreturn]] static void die() {
        fprintf(stderr, "the threads of a warp do not all come to the same operation\n");
        abort();
    }

    // Switches stacks, and tells the address sanitizer.
    void enter(const void* stack, size_t stack_len, ucontext_t* from, ucontext_t* to) {
        (void)stack, (void)stack_len;
#if defined(__SANITIZE_ADDRESS__)
        void* saved = nullptr;
        __sanitizer_start_switch_fiber(from ? &saved : nullptr, stack, stack_len);
#endif
        ucontext_t nowhere;
        swapcontext(from ? from : &nowhere, to);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
    }

    static void begin();

    Fiber fibers_[kThreads];
    ucontext_t host_;
    const void* host_stack_ = nullptr;
    size_t host_stack_len_ = 0;
    void (*kernel_)() = nullptr;
    uint32_t number_ = 0, current_ = 0;
    bool rising_ = true;
};

inline Warp& warp() {
    static Warp it;
    return it;
}

inline void Warp::begin() {
    Warp& self = warp();
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    size_t stack_len = 0;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &stack_len);
    // the first thread was entered from the host, the others from the thread before them
    if (self.current_ == self.first()) self.host_stack_ = stack, self.host_stack_len_ = stack_len;
#endif
    self.kernel_();
    self.meet(Operation::kEnd, 0);
    self.leave();
}

}  // namespace shim

inline uint32_t __ballot_sync(uint32_t, bool value) {
    shim::warp().meet(shim::Operation::kBallot, value);
    uint32_t bits = 0;
    for (uint32_t number = 0; number < shim::kThreads; ++number) {
        bits |= shim::warp().value_of(number) << number;
    }
    return bits;
}

inline bool __any_sync(uint32_t mask, bool value) { return __ballot_sync(mask, value) != 0; }

inline bool __all_sync(uint32_t mask, bool value) { return __ballot_sync(mask, value) == 0xffffffff; }

inline uint32_t __shfl_sync(uint32_t, uint32_t value, uint32_t from) {
    shim::warp().meet(shim::Operation::kShuffle, value);
    return shim::warp().value_of(from % shim::kThreads);
}

inline uint32_t __shfl_up_sync(uint32_t, uint32_t value, uint32_t distance) {
    shim::warp().meet(shim::Operation::kShuffle, value);
    uint32_t self = shim::warp().current();
    return shim::warp().value_of(self < distance ? self : self - distance);
}

inline void __syncwarp() { shim::warp().meet(shim::Operation::kSync, 0); }

inline int __popc(uint32_t value) { return __builtin_popcount(value); }

template <class T>
T __ldg(const T* at) {
    return *at;
}
