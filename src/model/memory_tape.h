#pragma once
// Memory of a forward and backward pass, simulated: tensors that have a size and a lifetime but no numbers, and a tape
// of what autograd keeps of them. A network is walked with these as it is with tensors, so that what is counted follows
// from its layers.
//
// What an operation keeps for backward is what LibTorch's formulas, or ours (frugal_layers.h), read again: convolutions
// and matrix products their input only where their weights train, norms their input whatever trains, activations their
// input (none after a norm), attention (the flash kernel, which CPU and GPU take) queries, keys, values and output,
// products the factors.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace ldmtune::model {

/// Bytes in use, and the most there were.
struct MemoryMeter {
  double live = 0, peak = 0;
  /// So much is in use for a moment beside what lives.
  void with(double bytes) { peak = live + bytes > peak ? live + bytes : peak; }
};

/// Bytes that live as long as somebody holds them.
class CountedStorage {
 public:
  CountedStorage(std::shared_ptr<MemoryMeter> meter, double bytes);
  ~CountedStorage();
  CountedStorage(const CountedStorage&) = delete;
  CountedStorage& operator=(const CountedStorage&) = delete;
  double bytes() const { return bytes_; }

 private:
  std::shared_ptr<MemoryMeter> meter_;
  double bytes_;
};

/// Stands for a tensor.
struct Counted {
  double elements = 0;
  double element_size = 4;
  bool needs_gradient = false;
  std::int64_t id = 0;  ///< of the value whose gradient it has
  std::shared_ptr<const CountedStorage> storage;

  double bytes() const { return elements * element_size; }
};

class MemoryTape {
 public:
  /// `records`: backward will follow.
  explicit MemoryTape(bool records) : records_(records) {}

  Counted tensor(double elements, double element_size, bool needs_gradient = false);

  /// y (B, out) = x W^T + b of `weights` numbers; a matrix that trains keeps the input (a copy of it, where its rows
  /// are not contiguous).
  Counted linear(const Counted& x, double out_elements, double weights, bool trains, bool input_is_strided = false);
  /// The library's convolution works on rearranged copies of input, output and weights.
  Counted convolution(const Counted& x, double out_elements, double weights, bool trains);
  Counted norm(const Counted& x, bool trains);
  /// The normalized values are computed again in backward.
  Counted norm_activation(const Counted& x, bool trains);
  Counted activation(const Counted& x);
  /// One whose derivative follows from its result: relu, sigmoid, tanh.
  Counted activation_keeping_result(const Counted& x);
  /// x * sigmoid(1.702 x), operation by operation.
  Counted quick_gelu(const Counted& x);
  /// Half of x gates the other.
  Counted gated_gelu(const Counted& x);
  /// `rows`: batch * heads * queries.
  Counted attention(const Counted& query, const Counted& key, const Counted& value, double rows);
  Counted add(const Counted& a, const Counted& b);
  /// x times numbers that are made for it and need no gradient (dropout).
  Counted masked(const Counted& x);
  Counted concatenate(const std::vector<Counted>& parts);
  /// Repeats or moves numbers: another tensor, nothing kept.
  Counted resized(const Counted& x, double elements);
  Counted cast(const Counted& x, double element_size);

  /// Gradient checkpointing: `block` keeps nothing but its inputs and is walked again in backward.
  using Block = std::function<Counted(const std::vector<Counted>& inputs)>;
  Counted recomputed(const Block& block, const std::vector<Counted>& inputs);

  /// Kept by nodes so far; a storage that several keep counts once.
  double kept_bytes() const;
  /// Walks back from the last value; what was kept is let go on the way.
  void backward(const Counted& output);

  double peak_bytes() const { return meter_->peak; }

 private:
  using Storage = std::shared_ptr<const CountedStorage>;
  struct Node {
    std::vector<Counted> inputs;  ///< those that need a gradient, without their storage
    std::int64_t output = 0;
    std::vector<Storage> kept;
    double work = 0;                                                     ///< bytes in use while its backward runs
    bool hands_on = false;                                               ///< its gradient is the inputs' gradient
    std::function<std::vector<Storage>(const Storage& gradient)> again;  ///< a recomputed block: gradients of inputs
  };

  Counted result(double elements, double element_size, const std::vector<Counted>& inputs, bool trains,
                 std::vector<Storage> kept, double work);
  void add_node(Node node);
  void walk_back(std::vector<Node>& nodes, std::map<std::int64_t, Storage>& gradients);
  Storage allocate(double bytes) { return std::make_shared<const CountedStorage>(meter_, bytes); }

  bool records_;
  std::shared_ptr<MemoryMeter> meter_ = std::make_shared<MemoryMeter>();
  std::int64_t next_id_ = 1;
  std::vector<Node> nodes_;
};

}  // namespace ldmtune::model
