// Runs the bodies of cuda/train_shared.cuh on one case: reads it from standard input and writes the trained
// state and the loss to standard output, all in binary. tests/test_cpusim_train_shared.py compiles this and
// talks to it.
#include "cpusim/cpusim.h"
//
#include <limits>

#include "cpusim/streams.h"
#include "cuda/train_shared.cuh"

namespace {

// Aligned as torch and CUDA align memory.
std::unique_ptr<dsae::cuda::Four<float>[]> floats(int64_t size, float all) {
  auto made = std::make_unique<dsae::cuda::Four<float>[]>((size + 3) / 4);
  std::fill_n(made.get(), (size + 3) / 4, dsae::cuda::Four<float>{{all, all, all, all}});
  return made;
}

float* numbers(const std::unique_ptr<dsae::cuda::Four<float>[]>& array) {
  return reinterpret_cast<float*>(array.get());
}

}  // namespace

int main() {
  using namespace dsae::cuda;
  try {
    const auto [order, seed, has_quads, rows, depth, features, step, epochs] = cpusim::read_numbers<8>();
    double rates[2];  // l1 and lr
    cpusim::read(rates, 2);
    const auto x = cpusim::read_array<float>(rows * depth);
    SharedTraining training{};
    set_shared_sizes(training, rows, depth, features, rates[0]);
    const auto state = cpusim::read_array<float>(3 * training.parameters());
    const auto loss = std::make_unique<float[]>(epochs);
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();  // so that what is never written shows
    const auto [n_zeros, n_floats, n_doubles] = place_shared_scratch(training, nullptr, nullptr, nullptr);
    const auto zeros = floats(n_zeros, 0.0f), others = floats(n_floats, kNan);
    const auto doubles = std::make_unique<double[]>(n_doubles);
    std::fill_n(doubles.get(), n_doubles, kNan);
    place_shared_scratch(training, numbers(zeros), numbers(others), doubles.get());
    training.x = x.get();
    training.x_has_quads = has_quads != 0;
    training.state = state.get();
    training.loss = loss.get();
    const cpusim::Schedule schedule{
        static_cast<cpusim::Schedule::Order>(order), static_cast<unsigned>(seed)};
    const auto launch = [&](auto* kernel, int64_t blocks, int64_t shared_bytes, const auto&... arguments) {
      cpusim::launch(dim3(blocks), dim3(kSharedThreads), shared_bytes, schedule, kernel, arguments...);
      return 0;
    };
    train_shared_in_order(training, step, epochs, rates[1], launch);
    cpusim::write_array(state.get(), 3 * training.parameters());
    cpusim::write_array(loss.get(), epochs);
  } catch (const std::exception& error) {
    return cpusim::fail(error);
  }
}
