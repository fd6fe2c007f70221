#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/types.h>

#include <contraflow/io/safetensors.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

constexpr const char* index_name = "model.safetensors.index.json";

// Two parts and their index.
void write_parts(const TemporaryDirectory& directory) {
  cf::write_safetensors(directory / "one.safetensors", {{"a", at::ones({2})}, {"b", at::arange(3)}},
                        {{"format", "pt"}});
  cf::write_safetensors(directory / "two.safetensors", {{"c", at::zeros({1, 4}, at::kHalf)}},
                        {{"format", "other"}, {"more", "x"}});
  write_all(directory / index_name,
            R"({"metadata": {"total_size": 40}, "weight_map": {"a": "one.safetensors",
                "b": "one.safetensors", "c": "two.safetensors"}})");
}

void check_refused(const TemporaryDirectory& directory, const std::string& weight_map,
                   const std::string& file, const std::string& part) {
  INFO(weight_map);
  write_all(directory / index_name, R"({"weight_map": )" + weight_map + "}");
  check_error([&] { cf::read_safetensors_sharded(directory / index_name); },
              (directory / file).string(), part);
}

std::vector<cf::TensorInfo> infos_of(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<cf::TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) {
    infos.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  return infos;
}

}  // namespace

TEST_CASE("parts are read as one file") {
  const TemporaryDirectory directory;
  write_parts(directory);
  const auto file = cf::read_safetensors_sharded(directory / index_name);
  REQUIRE(file.tensors.size() == 3);
  CHECK(file.tensors.at("a").equal(at::ones({2})));
  CHECK(file.tensors.at("b").equal(at::arange(3)));
  CHECK(file.tensors.at("c").equal(at::zeros({1, 4}, at::kHalf)));
  CHECK(file.metadata == std::map<std::string, std::string>{{"format", "pt"}, {"more", "x"}});
}

TEST_CASE("an index that does not fit its parts is refused") {
  const TemporaryDirectory directory;
  write_parts(directory);
  const auto refused = [&](const std::string& map, const std::string& file,
                           const std::string& part) { check_refused(directory, map, file, part); };
  refused(R"({"a": "one.safetensors"})", "one.safetensors", "got \"b\"");
  refused(R"({"a": "one.safetensors", "b": "one.safetensors", "d": "two.safetensors"})",
          "two.safetensors", "tensor \"d\"");
  refused(R"({"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors"})",
          "one.safetensors", "tensor \"c\"");
  refused(R"({"a": "three.safetensors"})", "three.safetensors", "No such file");
  refused(R"({"a": "one.safetensors", "a": "two.safetensors"})", index_name, "\"a\" twice");
  refused(R"(["one.safetensors"])", std::string(index_name) + ": \"weight_map\"", "JSON object");
  refused(R"({"a": 1})", std::string(index_name) + ": \"weight_map\": \"a\"", "a string");
  for (const std::string outside : {"../one.safetensors", "/etc/passwd", "sub/one", "..", ".", "",
                                    "sub\\\\one", "one\\u0000.safetensors"}) {
    refused(R"({"a": ")" + outside + R"("})", index_name, "names of files in its folder");
  }
  write_all(directory / index_name, "{}");
  check_error([&] { cf::read_safetensors_sharded(directory / index_name); },
              (directory / index_name).string() + ": \"weight_map\"", "none");
}

TEST_CASE("weights are found in one file, in parts, or as a variant") {
  const TemporaryDirectory directory;
  check_error([&] { cf::read_weights(directory.path()); }, directory.path().string(),
              "model.safetensors or model.safetensors.index.json");
  write_parts(directory);
  CHECK(cf::read_weights(directory.path()).tensors.size() == 3);
  cf::write_safetensors(directory / "model.safetensors", {{"whole", at::ones({1})}});
  CHECK(cf::read_weights(directory.path()).tensors.contains("whole"));

  check_error([&] { cf::read_weights(directory.path(), "diffusion_pytorch_model", "fp16"); },
              directory.path().string(),
              "diffusion_pytorch_model.fp16.safetensors or "
              "diffusion_pytorch_model.safetensors.index.fp16.json");
  std::filesystem::copy_file(directory / index_name,
                             directory / "diffusion_pytorch_model.safetensors.index.fp16.json");
  CHECK(cf::read_weights(directory.path(), "diffusion_pytorch_model", "fp16").tensors.size() == 3);
  cf::write_safetensors(directory / "model.fp16.safetensors", {{"half", at::ones({1}, at::kHalf)}});
  CHECK(cf::read_weights(directory.path(), "model", "fp16").tensors.contains("half"));
}

TEST_CASE("without a variant asked for, the plain weights are read, else the variant there is") {
  const TemporaryDirectory directory;
  write_parts(directory);
  const auto write = [&](const std::string& name, const char* tensor) {
    cf::write_safetensors(directory / name, {{tensor, at::ones({1})}});
  };
  const auto read = [&](const std::string& stem) {
    return cf::read_weights(directory.path(), stem).tensors;
  };
  // Parts of a variant and files of others are no weights of their own.
  write("whole.fp16-00001-of-00002.safetensors", "part");
  write("whole.fp16.more.safetensors", "more");
  write("wholes.fp16.safetensors", "other");
  write("whole..safetensors", "nameless");
  check_error([&] { read("whole"); }, directory.path().string(),
              "whole.safetensors or whole.safetensors.index.json, or a variant such as "
              "whole.fp16.safetensors");
  check_error([&] { read("whole"); }, directory.path().string(), "whole.fp16.more.safetensors, ");
  std::filesystem::copy_file(directory / index_name,
                             directory / "whole.safetensors.index.fp16.json");
  CHECK(read("whole").size() == 3);
  write("whole.fp16.safetensors", "fp16");
  CHECK(read("whole").contains("fp16"));
  write("whole.bf16.safetensors", "bf16");
  CHECK(read("whole").contains("bf16"));
  write("whole.safetensors", "plain");
  CHECK(read("whole").contains("plain"));

  const auto empty = directory / "empty";
  std::filesystem::create_directory(empty);
  check_error([&] { cf::read_weights(empty); }, empty.string(), "got no file");
  write_all(empty / "pytorch_model.bin", "");
  check_error([&] { cf::read_weights(empty); }, empty.string(),
              "got pytorch_model.bin, which is a pickle");
}

TEST_CASE("a file written tensor by tensor is the one written at once") {
  const TemporaryDirectory directory;
  const std::map<std::string, at::Tensor> tensors{
      {"a", at::arange(6, at::kFloat).reshape({2, 3}).t()},
      {"b", at::scalar_tensor(2.5)},
      {"c", at::empty({0, 4})},
      {"d", at::ones({5}).requires_grad_()},
  };
  const std::map<std::string, std::string> metadata{{"format", "pt"}};
  cf::write_safetensors(directory / "whole", tensors, metadata);
  {
    cf::SafetensorsWriter writer(directory / "stream", infos_of(tensors), metadata);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    CHECK_FALSE(std::filesystem::exists(directory / "stream"));
    writer.publish();
  }
  CHECK(read_all(directory / "stream") == read_all(directory / "whole"));
}

TEST_CASE("any order of tensors can be read back") {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, at::Tensor>> tensors{
      {"byte", at::ones({3}, at::kByte)}, {"wide", at::arange(4, at::kDouble)}};
  cf::SafetensorsWriter writer(directory / "file",
                               {{"byte", at::kByte, {3}}, {"wide", at::kDouble, {4}}});
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.publish();
  const auto file = cf::read_safetensors(directory / "file");
  for (const auto& [name, tensor] : tensors) CHECK(file.tensors.at(name).equal(tensor));
}

TEST_CASE("the writer holds to what was stated, and leaves nothing unfinished") {
  const TemporaryDirectory directory;
  {
    cf::SafetensorsWriter writer(directory / "file",
                                 {{"a", at::kFloat, {2}}, {"b", at::kHalf, {}}});
    const auto write = [&](const std::string& name, const at::Tensor& tensor) {
      return [&writer, name, tensor] { writer.write(name, tensor); };
    };
    check_error(write("b", at::ones({}, at::kHalf)), "name", "\"a\" next");
    check_error(write("a", at::ones({3})), "tensor", "got Float of [3]");
    check_error(write("a", at::ones({2}, at::kDouble)), "tensor", "expected \"a\" as Float of [2]");
    check_error(write("a", at::Tensor()), "tensors", "undefined");
    writer.write("a", at::ones({2}));
    check_error([&] { writer.publish(); }, "tensors", "expected 2 written, got 1");
    writer.write("b", at::ones({}, at::kHalf));
    check_error(write("c", at::ones({1})), "name", "no more tensors");
  }
  CHECK(std::filesystem::is_empty(directory.path()));

  const auto stated = [&](std::vector<cf::TensorInfo> infos) {
    return [&directory, infos] { cf::SafetensorsWriter writer(directory / "file", infos); };
  };
  check_error(stated({{"a", at::kFloat, {2}}, {"a", at::kFloat, {2}}}), "tensors", "\"a\" twice");
  check_error(stated({{"a", at::kFloat, {-1}}}), "tensors", "without negatives");
  check_error(stated({{"a", at::kFloat, {INT64_MAX, 2}}}), "tensors", "63 bits");
  check_error(stated({{"a", at::kComplexFloat, {2}}}), "tensors", "ComplexFloat");
  check_error(stated({{"__metadata__", at::kFloat, {2}}}), "tensors", "__metadata__");
  CHECK(std::filesystem::is_empty(directory.path()));
}
