#include "optim/prodigy.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <utility>

#include "core/error.h"
#include "optim/group_ranges.h"

namespace ldmtune::optim {
namespace {

void append(std::vector<double>& to, const std::vector<double>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

double one_rate(const std::map<std::string, double>& learning_rate) {
  if (learning_rate.empty()) fail("Prodigy needs a learning rate");
  for (const auto& [group, rate] : learning_rate) {
    if (rate != learning_rate.begin()->second) {
      fail("Prodigy needs one learning rate for all parameter groups, found ", learning_rate.begin()->second, " and ",
           rate, " (", group, ")");
    }
  }
  return learning_rate.begin()->second;
}

}  // namespace

Prodigy::Prodigy(const Arena& arena, ProdigyOptions options, std::int64_t begin, std::int64_t end, GlobalSum global_sum)
    : options_(options),
      begin_(begin),
      end_(end),
      arena_size_(arena.size()),
      global_sum_(std::move(global_sum)),
      d_(options.d0) {
  check_slice(arena, begin, end);
  if (begin < end && begin % kNormBlock != 0) fail("Prodigy's slice must begin on a block boundary, found ", begin);
  if (options_.beta3 == 0) options_.beta3 = std::sqrt(options_.beta2);
  for (at::Tensor* each : {&moment1_, &moment2_, &s_, &initial_}) {
    *each = at::zeros({end - begin}, arena.parameters().options());
  }
}

std::map<std::string, at::Tensor> Prodigy::state() const {
  return {{"moment1", moment1_}, {"moment2", moment2_}, {"s", s_}, {"initial", initial_}};
}

std::map<std::string, double> Prodigy::scalars() const {
  return {{"d", d_}, {"d_numerator", d_numerator_}, {"updates", static_cast<double>(updates_)}};
}

void Prodigy::set_scalars(const std::map<std::string, double>& values) {
  const auto value = [&](const char* name) {
    const auto found = values.find(name);
    if (found == values.end()) fail("Prodigy's state lacks '", name, "'");
    return found->second;
  };
  d_ = value("d");
  d_numerator_ = value("d_numerator");
  updates_ = static_cast<std::int64_t>(value("updates"));
}

// Each tensor operation below rounds once: kernels that fuse two round otherwise in their vectors than in their tails.

Prodigy::Sums Prodigy::accumulate(const Arena& arena, double s_factor) {
  std::vector<double> distance, absolute;
  const double moment1_factor = d_ * (1 - options_.beta1), moment2_factor = d_ * d_ * (1 - options_.beta2);
  for_each_piece(end_ - begin_, moment1_.device(), [&](std::int64_t first, std::int64_t length) {
    const at::Tensor p = arena.parameters().narrow(0, begin_ + first, length);
    const at::Tensor g = arena.gradients().narrow(0, begin_ + first, length);
    append(distance, block_products(g, initial_.narrow(0, first, length).sub(p)));
    moment1_.narrow(0, first, length).mul_(options_.beta1).add_(g.mul(moment1_factor));
    moment2_.narrow(0, first, length).mul_(options_.beta2).add_(g.mul(g).mul_(moment2_factor));
    const at::Tensor s = s_.narrow(0, first, length).mul_(options_.beta3).add_(g.mul(s_factor));
    append(absolute, block_products(s, s.sgn()));
  });
  return {global_sum_(distance), global_sum_(absolute)};
}

void Prodigy::move(const Arena& arena, double rate) {
  const double epsilon = d_ * options_.epsilon;
  for_each_piece(end_ - begin_, moment1_.device(), [&](std::int64_t first, std::int64_t length) {
    at::Tensor p = arena.parameters().narrow(0, begin_ + first, length);
    if (options_.weight_decay != 0) p.sub_(p.mul(options_.weight_decay * rate));
    const at::Tensor scale = moment2_.narrow(0, first, length).sqrt().add_(epsilon);
    p.sub_(moment1_.narrow(0, first, length).div(scale).mul_(rate));
  });
}

void Prodigy::step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t /*step*/) {
  if (arena.size() != arena_size_) fail("Prodigy was made for ", arena_size_, " elements, found ", arena.size());
  const double rate = one_rate(learning_rate);
  if (rate == 0) return;
  const at::NoGradGuard no_grad;
  if (updates_ == 0) initial_.copy_(arena.parameters().narrow(0, begin_, end_ - begin_));
  double correction = 1;
  if (options_.use_bias_correction) {
    const auto next = static_cast<double>(updates_ + 1);
    correction = std::sqrt(1 - std::pow(options_.beta2, next)) / (1 - std::pow(options_.beta1, next));
  }
  const double d_rate = d_ * rate * correction, relative = d_ / options_.d0;
  const Sums sums = accumulate(arena, relative * (options_.safeguard_warmup ? d_ : d_rate));
  if (sums.s == 0) return;  // no gradient yet
  d_numerator_ = options_.beta3 * d_numerator_ + relative * d_rate * sums.distance;
  d_ = std::max(d_, options_.d_coef * d_numerator_ / sums.s);
  move(arena, d_rate);
  ++updates_;
}

}  // namespace ldmtune::optim
