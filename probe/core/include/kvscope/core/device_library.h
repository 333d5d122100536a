#pragma once

#include <cstdint>
#include <string>

namespace kvscope {

/// A shared library of ours with the device code of a module, opened when it is asked for: one
/// build serves machines with and without a device.
class DeviceLibrary {
 public:
  /// Opens NAME.so beside the binary that this code is in, in ../bin and ../lib from there, or
  /// where the system looks. `NAME_abi` in it must return `abi`. Never throws for what is not
  /// there: `why_not` then says so.
  DeviceLibrary(const std::string& name, std::int32_t abi);

  /// Empty if it is open.
  const std::string& why_not() const { return why_not_; }

  /// A function of the library by its name and type, null if there is none; nothing closes the
  /// library while the program runs.
  template <typename Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(symbol(name));
  }

 private:
  void* symbol(const char* name) const;

  void* handle_ = nullptr;
  std::string why_not_;
};

/// What the dynamic loader last complained of.
std::string last_loader_error();

}  // namespace kvscope
