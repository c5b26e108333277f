// Answers test_philox.py: reads a JSON list of requests from standard input, prints a JSON list of answers. Requests:
//   {"kind": "words" | "uniform" | "normal" | "permutation", "seed", "purpose" (number), "dataset", "draw", "count"}
//   {"kind": "integers", ..., "bounds": [...]}, {"kind": "derive_seed", "seed", "name", "index"}
//   {"kind": "micro_batches", "sizes" (by bucket, then dataset), "weights", "data_seed", "trial_seed", "dataset",
//   "micro_batch_size", "from", "count"}: [draw, bucket, row, epoch]

#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"
#include "data/sample_stream.h"

namespace {

using namespace ldmtune;
using nlohmann::json;

json micro_batches(const json& request) {
  data::StreamRows rows{request.at("sizes"), {}};
  for (const double weight : request.at("weights")) rows.weights.push_back(data::Weight::of(weight));
  const data::SampleStream stream(rows, request.at("data_seed"), request.at("trial_seed"), request.at("dataset"),
                                  request.at("micro_batch_size"));
  json answer = json::array();
  const std::uint64_t from = request.at("from"), count = request.at("count");
  for (std::uint64_t m = from; m < from + count; ++m) {
    json draws = json::array();
    for (const data::Draw& draw : stream.micro_batch(m))
      draws.push_back({draw.draw, draw.bucket, draw.row, draw.epoch});
    answer.push_back(std::move(draws));
  }
  return answer;
}

json numbers(const RandomStream& stream, const std::string& kind, const json& request) {
  if (kind == "integers") {
    std::vector<std::uint64_t> integers;
    for (const std::uint64_t bound : request.at("bounds")) integers.push_back(stream.integer(integers.size(), bound));
    return integers;
  }
  const std::size_t count = request.at("count");
  if (kind == "permutation") return permutation(stream, static_cast<std::uint32_t>(count));
  if (kind == "words") {
    std::vector<std::uint32_t> words;
    for (std::size_t i = 0; i < count; ++i) words.push_back(stream.word(i));
    return words;
  }
  std::vector<float> values(count);
  if (kind == "normal") {
    stream.fill_normal(values);
  } else if (kind == "uniform") {
    stream.fill_uniform(values);
  } else {
    fail_input("unknown kind '", kind, "'");
  }
  return values;
}

json answer(const json& request) {
  const std::string kind = request.at("kind");
  if (kind == "micro_batches") return micro_batches(request);
  if (kind == "derive_seed") {
    return derive_seed(request.at("seed"), request.at("name").get<std::string>(), request.at("index"));
  }
  const RandomStream stream{request.at("seed"), static_cast<Purpose>(request.at("purpose").get<std::uint32_t>()),
                            request.at("dataset"), request.at("draw")};
  return numbers(stream, kind, request);
}

}  // namespace

int main() {
  try {
    json answers = json::array();
    for (const json& request : json::parse(std::cin)) answers.push_back(answer(request));
    std::cout << answers.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
