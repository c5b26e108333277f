#include "model/memory_tape.h"

#include <algorithm>
#include <set>
#include <utility>

namespace ldmtune::model {

CountedStorage::CountedStorage(std::shared_ptr<MemoryMeter> meter, double bytes)
    : meter_(std::move(meter)), bytes_(bytes) {
  meter_->live += bytes_;
  meter_->with(0);
}

CountedStorage::~CountedStorage() { meter_->live -= bytes_; }

Counted MemoryTape::tensor(double elements, double element_size, bool needs_gradient) {
  return {elements, element_size, needs_gradient, next_id_++, allocate(elements * element_size)};
}

void MemoryTape::add_node(Node node) {
  std::erase_if(node.inputs, [](const Counted& input) { return !input.needs_gradient; });
  for (Counted& input : node.inputs) input.storage.reset();
  nodes_.push_back(std::move(node));
}

Counted MemoryTape::result(double elements, double element_size, const std::vector<Counted>& inputs, bool trains,
                           std::vector<Storage> kept, double work) {
  const bool needs =
      trains || std::any_of(inputs.begin(), inputs.end(), [](const Counted& input) { return input.needs_gradient; });
  Counted output = tensor(elements, element_size, needs);
  if (needs && records_) add_node({inputs, output.id, std::move(kept), work, false, {}});
  return output;
}

Counted MemoryTape::linear(const Counted& x, double out_elements, double weights, bool trains, bool input_is_strided) {
  const Storage read = input_is_strided ? allocate(x.bytes()) : x.storage;
  std::vector<Storage> kept;
  if (trains) kept.push_back(read);
  return result(out_elements, x.element_size, {x}, trains, std::move(kept), trains ? weights * x.element_size : 0);
}

Counted MemoryTape::convolution(const Counted& x, double out_elements, double weights, bool trains) {
  const double rearranged = x.bytes() + (out_elements + weights) * x.element_size;
  std::vector<Storage> kept;
  if (trains) kept.push_back(x.storage);
  const Counted output = result(out_elements, x.element_size, {x}, trains, std::move(kept),
                                rearranged + (trains ? weights * x.element_size : 0));
  meter_->with(rearranged);
  return output;
}

Counted MemoryTape::norm(const Counted& x, bool trains) {
  return result(x.elements, x.element_size, {x}, trains, {x.storage}, 0);
}

Counted MemoryTape::norm_activation(const Counted& x, bool trains) {
  const Counted output = result(x.elements, x.element_size, {x}, trains, {x.storage}, x.bytes());
  meter_->with(x.bytes());
  return output;
}

Counted MemoryTape::activation(const Counted& x) {
  return result(x.elements, x.element_size, {x}, false, {x.storage}, 0);
}

Counted MemoryTape::activation_keeping_result(const Counted& x) {
  Counted output = tensor(x.elements, x.element_size, x.needs_gradient);
  if (x.needs_gradient && records_) add_node({{x}, output.id, {output.storage}, 0, false, {}});
  return output;
}

Counted MemoryTape::quick_gelu(const Counted& x) {
  const Counted gate = activation_keeping_result(resized(x, x.elements));
  return result(x.elements, x.element_size, {x, gate}, false, {x.storage, gate.storage}, 0);
}

Counted MemoryTape::gated_gelu(const Counted& x) {
  const Counted output = result(x.elements / 2, x.element_size, {x}, false, {x.storage}, x.bytes());
  meter_->with(x.bytes() / 2);
  return output;
}

Counted MemoryTape::attention(const Counted& query, const Counted& key, const Counted& value, double rows) {
  constexpr double kLogSumExp = 4;  // one f32 a row
  const Storage sums = allocate(rows * kLogSumExp);
  Counted output = tensor(query.elements, query.element_size);
  output.needs_gradient = query.needs_gradient || key.needs_gradient || value.needs_gradient;
  if (output.needs_gradient && records_) {
    // The kernel gives all three gradients, needed or not.
    const double unneeded = (query.needs_gradient ? 0 : query.bytes()) + (key.needs_gradient ? 0 : key.bytes()) +
                            (value.needs_gradient ? 0 : value.bytes());
    add_node({{query, key, value},
              output.id,
              {query.storage, key.storage, value.storage, output.storage, sums},
              unneeded,
              false,
              {}});
  }
  return output;
}

Counted MemoryTape::add(const Counted& a, const Counted& b) {
  Counted output = tensor(std::max(a.elements, b.elements), a.element_size, a.needs_gradient || b.needs_gradient);
  if (output.needs_gradient && records_) add_node({{a, b}, output.id, {}, 0, true, {}});
  return output;
}

Counted MemoryTape::masked(const Counted& x) {
  return result(x.elements, x.element_size, {x}, false, {allocate(x.bytes())}, 0);
}

Counted MemoryTape::concatenate(const std::vector<Counted>& parts) {
  double elements = 0;
  bool needs = false;
  for (const Counted& part : parts) {
    elements += part.elements;
    needs = needs || part.needs_gradient;
  }
  Counted output = tensor(elements, parts.front().element_size, needs);
  if (needs && records_) add_node({parts, output.id, {}, 0, true, {}});
  return output;
}

Counted MemoryTape::resized(const Counted& x, double elements) {
  return result(elements, x.element_size, {x}, false, {}, 0);
}

Counted MemoryTape::cast(const Counted& x, double element_size) {
  return x.element_size == element_size ? x : result(x.elements, element_size, {x}, false, {}, 0);
}

Counted MemoryTape::recomputed(const Block& block, const std::vector<Counted>& inputs) {
  if (!records_) return block(inputs);
  records_ = false;
  Counted output = block(inputs);
  records_ = true;
  output.id = next_id_++;
  if (!output.needs_gradient) return output;
  Node node{inputs, output.id, {}, 0, false, {}};
  for (const Counted& input : inputs) node.kept.push_back(input.storage);
  node.again = [this, block, inputs](const Storage& gradient) {
    std::vector<Node> outer;
    outer.swap(nodes_);
    records_ = true;
    std::map<std::int64_t, Storage> gradients{{block(inputs).id, gradient}};
    std::vector<Node> inner;
    inner.swap(nodes_);
    nodes_.swap(outer);
    walk_back(inner, gradients);
    std::vector<Storage> of_inputs;
    for (const Counted& input : inputs) {
      if (input.needs_gradient) of_inputs.push_back(gradients[input.id]);
    }
    return of_inputs;
  };
  add_node(std::move(node));
  return output;
}

double MemoryTape::kept_bytes() const {
  std::set<const CountedStorage*> kept;
  double bytes = 0;
  for (const Node& node : nodes_) {
    for (const Storage& storage : node.kept) {
      if (kept.insert(storage.get()).second) bytes += storage->bytes();
    }
  }
  return bytes;
}

void MemoryTape::walk_back(std::vector<Node>& nodes, std::map<std::int64_t, Storage>& gradients) {
  while (!nodes.empty()) {
    const Node node = std::move(nodes.back());
    nodes.pop_back();
    const auto found = gradients.find(node.output);
    if (found == gradients.end()) continue;
    const Storage gradient = std::move(found->second);
    gradients.erase(found);
    const std::vector<Storage> given = node.again ? node.again(gradient) : std::vector<Storage>();
    std::vector<Storage> made;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      made.push_back(node.again ? given[i] : node.hands_on ? gradient : allocate(node.inputs[i].bytes()));
    }
    meter_->with(node.work);
    for (std::size_t i = 0; i < made.size(); ++i) gradients.emplace(node.inputs[i].id, made[i]);
  }
}

void MemoryTape::backward(const Counted& output) {
  std::map<std::int64_t, Storage> gradients{{output.id, allocate(output.bytes())}};
  walk_back(nodes_, gradients);
}

}  // namespace ldmtune::model
