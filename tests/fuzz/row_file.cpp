// A file of rows, as prompts are stored, of any header is opened or left alone, and its rows are
// read or are not there. Input: the tensors, see safetensors_of().

#include <string>
#include <string_view>

#include <contraflow/io/row_file.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(row_file, input) {
  static const fuzz::Folder folder;
  const auto path = folder.write("rows.safetensors", fuzz::safetensors_of(std::string(input)));
  const auto file = contraflow::RowFile::open(path, {{"source", "fuzz"}});
  if (!file) return;
  fuzz::expects_law(file->size() >= 1);
  for (const std::int64_t row : {std::int64_t{0}, file->size() - 1}) {
    static_cast<void>(file->read(row));
  }
}
