#pragma once

#include <map>
#include <string>

#include <ATen/ATen.h>

/// A device that a host without a GPU can have: `at::kPrivateUse1`, which computes as the host does
/// and counts what a GPU would make the host wait for.
///
/// - Its memory cannot be read by the host: the addresses of its tensors are of pages without
/// rights,
///   so that a loop over `data_ptr` ends the program, as with a GPU.
/// - An operation on tensors of it and of the host is an error, as with a GPU, other than with
/// numbers
///   without dimensions.
/// - A copy to the host, `item`, and the operations whose result has a shape that depends on values
/// are
///   waits; so is a copy from the host that is not from pinned memory and told `non_blocking`.
///
/// What is composed on a GPU is composed here: no kernel for the host is taken.
namespace counting {

/// Makes it the accelerator of this process, once: autograd asks which one there is, so that no
/// other can be used beside it.
void register_device();

/// The device.
inline const at::Device device(at::kPrivateUse1, 0);

/// How often the host has waited, by operation, of all threads.
std::map<std::string, int> waits();

/// Begins to count anew.
void forget();

}  // namespace counting
