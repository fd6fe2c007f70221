#pragma once

/// @file
/// Tensors in the safetensors format: eight bytes of header length, a JSON header, then the data.

#include <contraflow/io/safetensors_reader.hpp>
#include <contraflow/io/safetensors_writer.hpp>
