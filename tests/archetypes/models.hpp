#pragma once

#include <memory>
#include <vector>

#include <torch/nn/modules/linear.h>

#include <contraflow/model/concept.hpp>

namespace archetypes {

using contraflow::Tensor;

/// A TrainableModel: a module that is no holder, cloned by hand, that knows no sample shape.
class PlainModel {
 public:
  explicit PlainModel(std::int64_t dimension)
      : layer_(std::make_shared<torch::nn::LinearImpl>(dimension, dimension)) {
    const at::NoGradGuard no_gradient;
    layer_->weight.copy_(at::eye(dimension) * 0.5);
    layer_->bias.fill_(0.1);
  }

  Tensor operator()(const Tensor& x_t, const Tensor& t) {
    return layer_->forward(x_t) * t.unsqueeze(1);
  }
  std::shared_ptr<torch::nn::Module> module() const { return layer_; }
  PlainModel clone() const {
    PlainModel copy(*this);
    copy.layer_ = std::dynamic_pointer_cast<torch::nn::LinearImpl>(layer_->clone());
    return copy;
  }

 private:
  std::shared_ptr<torch::nn::LinearImpl> layer_;
};

/// A Condition of the user's: a weight and a label a sample.
struct Caption {
  std::vector<double> weight;
  Tensor label;
  bool operator==(const Caption& other) const {
    return weight == other.weight && at::equal(label, other.label);
  }
};
inline std::int64_t batch_size(const Caption& caption) { return std::ssize(caption.weight); }
inline Caption select(const Caption& caption, const Tensor& ids) {
  Caption result{{}, caption.label.index_select(0, ids)};
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    result.weight.push_back(caption.weight.at(static_cast<std::size_t>(ids[i].item<int>())));
  }
  return result;
}
inline Caption concatenate(const Caption& first, const Caption& second) {
  Caption result{first.weight, at::cat({first.label, second.label})};
  result.weight.insert(result.weight.end(), second.weight.begin(), second.weight.end());
  return result;
}
inline Caption repeat(const Caption& caption, std::int64_t times) {
  return select(caption, at::arange(batch_size(caption), at::kLong).repeat_interleave(times));
}

/// A TrainableModel under a Caption only.
class CaptionedModel {
 public:
  Tensor operator()(const Tensor& x_t, const Tensor&, const Caption& caption) {
    const Tensor weight = at::tensor(caption.weight).to(x_t.options()).unsqueeze(1);
    return layer_->forward(x_t) * weight;
  }
  std::shared_ptr<torch::nn::Module> module() const { return layer_.ptr(); }
  CaptionedModel clone() const {
    CaptionedModel copy;
    copy.layer_ = contraflow::clone_of(layer_);
    return copy;
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  torch::nn::Linear layer_{2, 2};
};

/// A TrainableModel, with labels or without, of sums and products of elements alone: a sample's
/// velocity has the same bits whatever stands beside it.
class ExactModel {
 public:
  ExactModel() {
    const at::NoGradGuard no_gradient;
    layer_->weight.copy_(at::tensor({0.5F, -0.25F}).unsqueeze(0));
  }
  Tensor operator()(const Tensor& x_t, const Tensor& t) {
    return x_t * layer_->weight + t.unsqueeze(1);
  }
  Tensor operator()(const Tensor& x_t, const Tensor& t, const Tensor& label) {
    return (*this)(x_t, t) + label.unsqueeze(1) * layer_->weight;
  }
  std::shared_ptr<torch::nn::Module> module() const { return layer_.ptr(); }
  ExactModel clone() const {
    ExactModel copy;
    copy.layer_ = contraflow::clone_of(layer_);
    return copy;
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }

 private:
  torch::nn::Linear layer_{torch::nn::LinearOptions(2, 1).bias(false)};
};

static_assert(contraflow::TrainableModel<ExactModel>);
static_assert(contraflow::TrainableModel<ExactModel, Tensor>);
static_assert(contraflow::TrainableModel<PlainModel> && !contraflow::HasSampleShape<PlainModel>);
static_assert(contraflow::Condition<Caption>);
static_assert(contraflow::TrainableModel<CaptionedModel, Caption>);
static_assert(!contraflow::FlowModel<CaptionedModel>);

}  // namespace archetypes
