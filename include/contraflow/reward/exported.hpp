#pragma once

/// @file
/// A reward that was exported from Python.

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <contraflow/reward/image_batch.hpp>

namespace contraflow {

/// How an exported reward is called.
struct ExportedOptions {
  /// Makes the module's second input, int64 [B, L], of captions; empty: images are its only input.
  std::function<Tensor(const Captions&)> encode = {};
  at::Device device = at::kCPU;  ///< where the module is run
};

namespace detail {

// What went wrong, without LibTorch's backtrace in C++ and TorchScript's in Python.
inline std::string last_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}
inline std::string reason_of(const std::exception& failure) {
  const auto* error = dynamic_cast<const c10::Error*>(&failure);
  return last_line(error != nullptr ? error->what_without_backtrace() : failure.what());
}

class ExportedModule {
 public:
  virtual ~ExportedModule() = default;
  virtual Tensor run(std::vector<Tensor> inputs) = 0;
};

class TorchScriptModule final : public ExportedModule {
 public:
  TorchScriptModule(const std::string& path, at::Device device)
      : module_(torch::jit::load(path, device)) {
    module_.eval();
  }
  Tensor run(std::vector<Tensor> inputs) override {
    const c10::IValue result = module_.forward({inputs.begin(), inputs.end()});
    return result.isTensor() ? result.toTensor() : Tensor();
  }

 private:
  torch::jit::Module module_;
};

class AotInductorPackage final : public ExportedModule {
 public:
  AotInductorPackage(const std::string& path, at::Device device)
      : loader_(path, "model", /*run_single_threaded=*/false, /*num_runners=*/1, device.index()) {}
  Tensor run(std::vector<Tensor> inputs) override {
    const std::vector<Tensor> results = loader_.run(inputs);
    return results.size() == 1 ? results.front() : Tensor();
  }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
};

}  // namespace detail

/// A reward that was exported from Python: TorchScript (`torch.jit.save`), or, from files named
/// `.pt2`, an AOTInductor package (`torch._inductor.aoti_compile_and_package`).
///
/// The module is called as `module(images)`, or as `module(images, ids)` where captions are
/// encoded, and gives scores [B] or [B, 1]. Calls from several threads take turns, and copies share
/// the module. An AOTInductor package holds machine code: it must come from someone who is trusted,
/// it runs on the kind of machine and with the batch sizes it was made for, and it needs
/// libtorch.so on the path of libraries.
class Exported {
 public:
  /// @param path a TorchScript file or a `.pt2` package
  /// @param options how it is called
  /// @throws Error naming the file, for one that cannot be loaded
  explicit Exported(const std::filesystem::path& path, ExportedOptions options = {})
      : path_(path.string()), options_(std::move(options)), state_(std::make_shared<State>()) {
    try {
      state_->module = loaded();
    } catch (const std::exception& failure) {
      throw Error(path_, "a TorchScript file, or an AOTInductor package named .pt2",
                  detail::reason_of(failure));
    }
  }

  /// Scores of images alone.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B], on the CPU
  /// @throws Error for anything else, where captions are needed, or where the module fails
  Tensor operator()(const Tensor& images) const {
    if (options_.encode) throw Error("captions", "one an image, as encode is set", "none");
    return scores(images, {prepared(images)});
  }

  /// Scores of images with their captions.
  /// @par Shape
  /// @p images [B, 3, H, W] with values in [0, 1]; result float32 [B], on the CPU
  /// @param images any size that the module takes
  /// @param captions one an image; not used where `encode` is empty
  /// @throws Error for anything else, or where the module fails
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    if (!options_.encode) return (*this)(images);
    const Tensor values = prepared(images);
    detail::expects_captions(captions, images);
    return scores(images, {values, options_.encode(captions).to(options_.device)});
  }

 private:
  struct State {
    std::mutex turn;
    std::unique_ptr<detail::ExportedModule> module;
  };

  std::unique_ptr<detail::ExportedModule> loaded() const {
    if (path_.ends_with(".pt2")) {
      return std::make_unique<detail::AotInductorPackage>(path_, options_.device);
    }
    return std::make_unique<detail::TorchScriptModule>(path_, options_.device);
  }

  Tensor prepared(const Tensor& images) const {
    return detail::pixel_values(images).to(options_.device).contiguous();
  }

  Tensor scores(const Tensor& images, std::vector<Tensor> inputs) const {
    const Tensor result = called(std::move(inputs));
    const std::int64_t batch = images.size(0);
    const bool fits = result.defined() && result.numel() == batch && result.dim() <= 2 &&
                      result.dim() >= 1 && result.size(0) == batch;
    if (!fits) {
      throw Error(path_, "scores [" + shown(batch) + "] or [" + shown(batch) + ", 1]",
                  shape_text(result));
    }
    return detail::without_broken(result.reshape({batch}).to(at::kCPU, at::kFloat), images);
  }

  Tensor called(std::vector<Tensor> inputs) const {
    const at::NoGradGuard no_grad;
    const std::lock_guard<std::mutex> turn(state_->turn);
    try {
      return state_->module->run(std::move(inputs));
    } catch (const std::exception& failure) {
      throw Error(path_, "a module that scores these images", detail::reason_of(failure));
    }
  }

  std::string path_;
  ExportedOptions options_;
  std::shared_ptr<State> state_;
};

}  // namespace contraflow
