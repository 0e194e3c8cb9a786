// Runs a CUDA kernel on the CPU, so that tests without a GPU can execute the very bodies that nvcc compiles.
//
// Include this before a .cuh, compile with a C++ compiler, and call cpusim::launch. The threads of a block
// are fibers on one OS thread; a fiber runs until it meets a barrier or a warp exchange, and the schedule
// says who runs next. So a kernel that lacks a barrier gives different results under different schedules,
// reading shared memory before writing it gives 0xCD bytes, and a barrier that some threads miss is reported.
// AddressSanitizer and UBSan work as usual. An asynchronous copy spoils its target at once and brings the bytes
// when its thread waits for them, so that neither end of a copy can be missed; see tensor_cores.h.
//
// Not simulated: clusters, time, blocks that run at the same time. Lanes of a warp do not run in lockstep.
#pragma once

#ifdef __CUDACC__
#error "cpusim.h is for a C++ compiler, not for nvcc"
#endif

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
// All shared memory is dynamic, so that each block gets it fresh and AddressSanitizer knows where it ends; a
// kernel with
// __shared__ variables does not compile here.
#define DSAE_SHARED_MEMORY(name) unsigned char* const name = cpusim::shared_memory

struct uint3 {
  unsigned x, y, z;
};

struct dim3 : uint3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cpusim {

inline unsigned char* shared_memory = nullptr;

constexpr unsigned char kUnwritten = 0xCD;  // what shared memory holds at first
// Memory that a block must not change, behind what it may; AddressSanitizer needs none.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 64 * 1024;
#endif

// Which of the threads that can go on goes next.
struct Schedule {
  enum class Order { forward, reverse, random } order = Order::forward;
  unsigned seed = 0;
};

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  // What lanes give each other, in turns: who writes for one exchange knows that all have read the last but
  // one.
  uint64_t exchanged[2][32] = {};
  static constexpr size_t kGatheredBytes = 32;
  unsigned char gathered[2][32][kGatheredBytes] = {};

  uint64_t* next_exchange() { return exchanged[barrier.generation % 2]; }
};

// Bytes on their way from global to shared memory.
struct Copy {
  unsigned char* to;
  const void* from;
  size_t valid, bytes;
};

struct Fiber {
  static constexpr size_t kStackBytes = 256 * 1024;

  ucontext_t context{};
  uint3 index{};
  unsigned number = 0;
  bool finished = false;
  const Barrier* barrier = nullptr;  // that it waits at, since this generation of it
  unsigned generation = 0;
  const char* waits_for = nullptr;
  std::vector<Copy> copies;

  bool can_go_on() const { return !finished && (!barrier || barrier->generation != generation); }
  void* asan_stack = nullptr;
  char* stack = nullptr;
};

class Block {
 public:
  Block(dim3 threads, const std::function<void()>& body)
      : body_(body), fibers_(threads.x * threads.y * threads.z) {
    stacks_ = static_cast<char*>(mmap(
        nullptr, stacks_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) throw std::bad_alloc();
    for (unsigned number = 0; number < fibers_.size(); ++number) {
      Fiber& fiber = fibers_[number];
      fiber.number = number;
      fiber.index = {number % threads.x, number / threads.x % threads.y, number / (threads.x * threads.y)};
      fiber.stack = stacks_ + number * Fiber::kStackBytes;
    }
    warps_.resize((fibers_.size() + 31) / 32);
  }
  ~Block() { munmap(stacks_, stacks_bytes()); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs every thread of one block to its end.
  void run(Schedule::Order order, std::mt19937& random) {
    current = this;
    start_all();
    std::vector<unsigned> turns(fibers_.size());
    std::iota(turns.begin(), turns.end(), 0u);
    if (order == Schedule::Order::reverse) std::reverse(turns.begin(), turns.end());
    while (running_ > 0) {
      if (order == Schedule::Order::random) std::shuffle(turns.begin(), turns.end(), random);
      progress_ = false;
      for (unsigned turn : turns) {
        if (fibers_[turn].can_go_on()) resume(fibers_[turn]);
        if (error_) std::rethrow_exception(error_);
      }
      if (running_ > 0 && !progress_) throw std::runtime_error(describe_deadlock());
    }
  }

  void sync_threads() { wait(barrier_, static_cast<int>(fibers_.size()), "__syncthreads"); }

  void sync_warp(unsigned mask) {
    if (!(mask >> lane() & 1))
      throw std::runtime_error("cpusim: a thread calls a *_sync whose mask leaves it out");
    wait(warp().barrier, __builtin_popcount(mask & present_lanes()), "a warp's *_sync");
  }

  // Every lane in the mask gives a number and gets the source lane's.
  template <class T>
  T exchange(unsigned mask, T number, unsigned source) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t* const exchanged = warp().next_exchange();
    std::memcpy(&exchanged[lane()], &number, sizeof(T));
    sync_warp(mask);
    if (mask & present_lanes() & (1u << source)) std::memcpy(&number, &exchanged[source], sizeof(T));
    return number;
  }

  // A bit of every lane in the mask.
  unsigned ballot(unsigned mask, bool bit) {
    uint64_t* const exchanged = warp().next_exchange();
    exchanged[lane()] = bit;
    sync_warp(mask);
    unsigned bits = 0;
    for (unsigned other = 0; other < 32; ++other) {
      const bool takes_part = mask & present_lanes() & (1u << other);
      bits |= static_cast<unsigned>(takes_part && exchanged[other]) << other;
    }
    return bits;
  }

  // Every lane of a whole warp gives something and gets what all gave.
  template <class T>
  void gather(const T& own, T (&all)[32]) {
    static_assert(sizeof(T) <= Warp::kGatheredBytes);
    if (present_lanes() != ~0u) throw std::runtime_error("cpusim: this takes a whole warp");
    auto& gathered = warp().gathered[warp().barrier.generation % 2];
    std::memcpy(gathered[lane()], &own, sizeof(T));
    sync_warp(~0u);
    for (unsigned other = 0; other < 32; ++other) std::memcpy(&all[other], gathered[other], sizeof(T));
  }

  void start_copy(void* to, const void* from, int valid, int bytes) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0)
      throw std::runtime_error("cpusim: an asynchronous copy is not aligned");
    if (valid < 0 || valid > bytes) throw std::runtime_error("cpusim: an asynchronous copy of too many bytes");
    std::memset(to, kUnwritten, bytes);
    running_fiber_->copies.push_back(
        {static_cast<unsigned char*>(to), from, static_cast<size_t>(valid), static_cast<size_t>(bytes)});
  }

  void finish_copies() {
    for (const Copy& copy : running_fiber_->copies) {
      std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
    }
    running_fiber_->copies.clear();
  }

  unsigned lane() const { return running_fiber_->number % 32; }

  static inline Block* current = nullptr;

 private:
  size_t stacks_bytes() const { return fibers_.size() * Fiber::kStackBytes; }
  Warp& warp() { return warps_[running_fiber_->number / 32]; }

  unsigned present_lanes() const {
    const size_t after_first = fibers_.size() - running_fiber_->number / 32 * 32;
    return after_first >= 32 ? ~0u : (1u << after_first) - 1;
  }

  void start_all() {
    barrier_ = {};
    std::fill(warps_.begin(), warps_.end(), Warp{});
    running_ = fibers_.size();
    for (Fiber& fiber : fibers_) start(fiber);
  }

  static void start(Fiber& fiber) {
    fiber.finished = false;
    fiber.barrier = nullptr;
    fiber.waits_for = nullptr;
    fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = Fiber::kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::run_thread, 0);
  }

  static void run_thread() {
    Block& block = *current;
    block.arrived_on_fiber();
    try {
      block.body_();
      if (!block.running_fiber_->copies.empty())
        throw std::runtime_error("cpusim: a thread ends before its asynchronous copies");
    } catch (...) {
      block.error_ = std::current_exception();
    }
    block.running_fiber_->finished = true;
    block.progress_ = true;
    --block.running_;
    block.leave_fiber();
  }

  void wait(Barrier& barrier, int expected, const char* what) {
    Fiber& fiber = *running_fiber_;
    fiber.generation = barrier.generation;
    fiber.barrier = &barrier;
    fiber.waits_for = what;
    if (++barrier.arrived >= expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      progress_ = true;
    }
    if (!fiber.can_go_on()) leave_fiber();
    fiber.barrier = nullptr;
    fiber.waits_for = nullptr;
  }

  std::string describe_deadlock() const {
    std::string text = "cpusim: some threads wait for others that don't come:";
    int shown = 0;
    for (const Fiber& fiber : fibers_) {
      if (fiber.finished || shown++ == 4) continue;
      text += " thread " + std::to_string(fiber.number) + " at " + (fiber.waits_for ? fiber.waits_for : "?") +
              ",";
      if (shown == 4) break;
    }
    return text + " while " + std::to_string(fibers_.size() - running_) + " threads have finished";
  }

  // The three places where control passes between the scheduler and a fiber, each announced to
  // AddressSanitizer.
  void resume(Fiber& fiber) {
    running_fiber_ = &fiber;
    threadIdx = fiber.index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&asan_scheduler_, fiber.stack, Fiber::kStackBytes);
#endif
    swapcontext(&scheduler_, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(asan_scheduler_, nullptr, nullptr);
#endif
  }

  void arrived_on_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
    // AddressSanitizer has cleared its notes on the stack; without this it would before every later switch.
    running_fiber_->context.uc_stack.ss_size = 0;
#endif
  }

  void leave_fiber() {
    Fiber& fiber = *running_fiber_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(
        fiber.finished ? nullptr : &fiber.asan_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
    swapcontext(&fiber.context, &scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.asan_stack, nullptr, nullptr);
#endif
  }

  const std::function<void()>& body_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  Barrier barrier_;
  char* stacks_ = nullptr;
  ucontext_t scheduler_{};
  Fiber* running_fiber_ = nullptr;
  size_t running_ = 0;
  bool progress_ = false;
  std::exception_ptr error_;
  void* asan_scheduler_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

// kernel<<<grid, threads, shared_bytes>>>(arguments...), one block after another.
template <class Kernel, class... Arguments>
void launch(
    dim3 grid, dim3 threads, size_t shared_bytes, Schedule schedule, Kernel kernel, Arguments... arguments) {
  const std::function<void()> body = [&] { kernel(arguments...); };
  Block block(threads, body);
  std::mt19937 random(schedule.seed);
  blockDim = threads;
  gridDim = grid;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        const auto shared = std::make_unique<unsigned char[]>(shared_bytes + kGuardBytes);
        unsigned char* const end = shared.get() + shared_bytes;
        std::memset(shared.get(), kUnwritten, shared_bytes + kGuardBytes);
        shared_memory = shared.get();
        block.run(schedule.order, random);
        if (std::count(end, end + kGuardBytes, kUnwritten) != static_cast<std::ptrdiff_t>(kGuardBytes))
          throw std::runtime_error("cpusim: a block writes beyond its shared memory");
      }
    }
  }
}

}  // namespace cpusim

namespace cpusim {

// CPUSIM_WITHOUT=FILE:LINE leaves out the barrier there, to see whether a test needs it.
inline bool is_left_out(const char* file, int line) {
  static const char* const left_out = std::getenv("CPUSIM_WITHOUT");
  if (!left_out) return false;
  const std::string path = file, place = path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  return place == left_out;
}

inline void sync_threads(const char* file, int line) {
  if (!is_left_out(file, line)) Block::current->sync_threads();
}

inline void sync_warp(const char* file, int line, unsigned mask = ~0u) {
  if (!is_left_out(file, line)) Block::current->sync_warp(mask);
}

}  // namespace cpusim

#define __syncthreads() cpusim::sync_threads(__FILE__, __LINE__)
#define __syncwarp(...) cpusim::sync_warp(__FILE__, __LINE__ __VA_OPT__(, ) __VA_ARGS__)

template <class T>
T __shfl_xor_sync(unsigned mask, T number, unsigned lane_mask) {
  cpusim::Block& block = *cpusim::Block::current;
  return block.exchange(mask, number, (block.lane() ^ lane_mask) % 32);
}

inline unsigned __ballot_sync(unsigned mask, bool bit) { return cpusim::Block::current->ballot(mask, bit); }

inline int __ffs(int bits) { return __builtin_ffs(bits); }

// A fiber is never interrupted, so reading, changing and writing are one step.
template <class T>
T atomicAdd(T* address, T number) {
  const T old = *address;
  *address = old + number;
  return old;
}

template <class T>
T atomicOr(T* address, T bits) {
  const T old = *address;
  *address = old | bits;
  return old;
}

template <class T>
T atomicMax(T* address, T number) {
  const T old = *address;
  *address = number > old ? number : old;
  return old;
}

inline void __threadfence() {}  // one block runs after another

#include "cpusim/tensor_cores.h"
