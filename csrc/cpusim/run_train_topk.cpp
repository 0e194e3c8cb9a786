// Runs the bodies of cuda/train_topk.cuh on one case: reads it from standard input and writes the trained
// encoder, decoder and bias, the loss and the sum of squares to standard output, all in binary.
// tests/test_cpusim_train.py compiles this and talks to it.
#include "cpusim/cpusim.h"
//
#include "cpusim/streams.h"
#include "cuda/train_topk.cuh"

namespace {

template <int kRowsEach, bool kStateIsShared>
void launch(int64_t blocks, cpusim::Schedule schedule, dsae::cuda::TrainTopk& arguments) {
  using namespace dsae::cuda;
  const int64_t pitch = train_pitch(arguments.depth);
  const int64_t floats =
      train_state_floats(arguments.features, pitch, arguments.k, TrainShared<kRowsEach>::kRows);
  const int64_t states_floats =
      train_moment_floats(arguments.features, pitch) + (kStateIsShared ? 0 : floats);
  // Aligned as torch and CUDA align memory.
  const auto states = std::make_unique<Four<float>[]>(blocks * states_floats / 4);
  arguments.states = reinterpret_cast<float*>(states.get());
  const int64_t bytes = sizeof(TrainShared<kRowsEach>) + (kStateIsShared ? 4 * floats : 0);
  cpusim::launch(
      dim3(blocks), dim3(kTrainThreads), bytes, schedule, train_topk_kernel<kRowsEach, kStateIsShared>,
      arguments);
}

}  // namespace

int main() {
  using namespace dsae::cuda;
  try {
    const auto [variant, blocks, order, seed, type, heads, rows, depth, features, k, epochs] =
        cpusim::read_numbers<11>();
    double lr;
    cpusim::read(&lr, 1);
    const auto x = cpusim::read_array<unsigned char>(heads * rows * depth * (type ? 2 : 4));
    const auto encoder = cpusim::read_array<float>(heads * depth * features);
    const auto decoder = cpusim::read_array<float>(heads * depth * features);
    const auto bias = cpusim::read_array<float>(heads * features);
    const auto floats = [](int64_t size) { return std::make_unique<float[]>(size); };
    const auto doubles = [](int64_t size) { return std::make_unique<double[]>(size); };
    const auto trained_encoder = floats(heads * depth * features);
    const auto trained_decoder = floats(heads * depth * features);
    const auto trained_bias = floats(heads * features), loss = floats(epochs);
    const auto squares = doubles(heads), square_sum = doubles(1), squared_errors = doubles(epochs * heads);
    const auto errors = floats(blocks * rows * depth), activations = floats(blocks * rows * k);
    const auto gradients = floats(blocks * rows * k);
    const auto feature_gradients = floats(blocks * kTrainWarps * 2 * depth);
    const auto chosen = std::make_unique<int32_t[]>(blocks * rows * k);
    const auto small = [](int64_t size) { return static_cast<int32_t>(size); };
    TrainTopk arguments{
        {x.get(), static_cast<dsae::FloatType>(type)},
        rows * depth,
        depth,
        encoder.get(),
        decoder.get(),
        bias.get(),
        heads,
        small(rows),
        small(depth),
        small(features),
        small(k),
        small(epochs),
        lr,
        trained_encoder.get(),
        trained_decoder.get(),
        trained_bias.get(),
        loss.get(),
        squares.get(),
        square_sum.get(),
        squared_errors.get(),
        errors.get(),
        chosen.get(),
        activations.get(),
        gradients.get(),
        feature_gradients.get(),
        nullptr};
    const cpusim::Schedule schedule{
        static_cast<cpusim::Schedule::Order>(order), static_cast<unsigned>(seed)};
    const dim3 threads(kTrainThreads);
    constexpr size_t kSumBytes = sizeof(double) * kTrainWarps;
    cpusim::launch(dim3(heads), threads, kSumBytes, schedule, train_squares_kernel, arguments);
    cpusim::launch(dim3(1), threads, kSumBytes, schedule, train_square_sum_kernel, arguments);
    if (variant == 0) launch<4, true>(blocks, schedule, arguments);
    if (variant == 1) launch<2, true>(blocks, schedule, arguments);
    if (variant == 2) launch<2, false>(blocks, schedule, arguments);
    cpusim::launch(dim3(epochs), threads, kSumBytes, schedule, train_loss_kernel, arguments);
    cpusim::write_array(trained_encoder.get(), heads * depth * features);
    cpusim::write_array(trained_decoder.get(), heads * depth * features);
    cpusim::write_array(trained_bias.get(), heads * features);
    cpusim::write_array(loss.get(), epochs);
    cpusim::write_array(square_sum.get(), 1);
  } catch (const std::exception& error) {
    return cpusim::fail(error);
  }
}
