#include "pipeline/generate_shared.h"

#include <algorithm>

#include "pipeline/bytes.h"
#include "pipeline/collective.h"

namespace ldmtune::pipeline {
namespace {

std::string to_bytes(const GenerateResult& result) {
  std::string bytes;
  for (const at::Tensor& tensor : {result.initial_noise, result.final_latent, result.image, result.context}) {
    append_bytes(bytes, tensor);
  }
  return bytes;
}

/// `like` has the shapes.
GenerateResult from_bytes(const std::string& bytes, const GenerateResult& like) {
  ByteReader reader(bytes);
  const auto take = [&](const at::Tensor& tensor) { return reader.take(tensor.sizes(), tensor.scalar_type()); };
  GenerateResult result;
  result.initial_noise = take(like.initial_noise);
  result.final_latent = take(like.final_latent);
  result.image = take(like.image);
  result.context = take(like.context);
  return result;
}

}  // namespace

std::vector<GenerateResult> generate_shared(const model::BaseModel& base, PromptEncoder& prompts,
                                            const std::vector<SharedRequest>& requests, comm::Communicator& comm,
                                            const std::function<void(std::size_t)>& done) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  const auto rank = static_cast<std::size_t>(comm.rank());
  std::vector<GenerateResult> results;
  for (std::size_t first = 0; first < requests.size(); first += ranks) {
    GenerateResult own;
    const std::vector<std::string> round = gather_together(comm, [&] {
      if (first + rank >= requests.size()) return std::string();
      const SharedRequest& mine = requests[first + rank];
      own = generate(base, prompts, mine.request, mine.hooks);
      return rank == 0 ? std::string() : to_bytes(own);
    });
    if (rank != 0) continue;
    const std::size_t last = std::min(first + ranks, requests.size());
    results.push_back(std::move(own));
    for (std::size_t i = first + 1; i < last; ++i) results.push_back(from_bytes(round[i - first], results.back()));
    if (done) done(last);
  }
  return results;
}

}  // namespace ldmtune::pipeline
