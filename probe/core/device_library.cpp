#include "kvscope/core/device_library.h"

#include <dlfcn.h>

namespace kvscope {
namespace {

/// The folder of the binary this code is in, with a slash; empty if unknown.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) {
    return {};
  }
  const std::string path = info.dli_fname;
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash + 1);
}

}  // namespace

std::string last_loader_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown";
}

DeviceLibrary::DeviceLibrary(const std::string& name, std::int32_t abi) {
  const std::string file = name + ".so";
  const std::string folder = own_folder();
  for (const std::string& place :
       {folder + file, folder + "../bin/" + file, folder + "../lib/" + file, file}) {
    handle_ = handle_ != nullptr ? handle_ : dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle_ == nullptr) {
    why_not_ = file + ": " + last_loader_error();
    return;
  }
  // libkvscope_cuda.so says its version in kvscope_cuda_abi.
  const std::string version = name.substr(name.starts_with("lib") ? 3 : 0) + "_abi";
  auto* found = function<std::int32_t()>(version.c_str());
  if (found == nullptr || found() != abi) {
    dlclose(handle_);
    handle_ = nullptr;
    why_not_ = file + " is of another version";
    return;
  }
}

void* DeviceLibrary::symbol(const char* name) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, name);
}

}  // namespace kvscope
