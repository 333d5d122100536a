// The CUDA half lives in libkvscope_cusolver.so, opened on demand: one build serves machines with
// and without a device.
#include "device.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <charconv>

#include "cuda/kvscope_cusolver.h"
#include "kvscope/core/error.h"

namespace kvscope::spectral {
namespace {

struct Library {
  decltype(&kvscope_cusolver_devices) devices = nullptr;
  decltype(&kvscope_cusolver_eigenvalues) eigenvalues = nullptr;
  std::string why_not;
};

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

Library open_library() {
  Library library;
  const std::string name = "libkvscope_cusolver.so";
  const std::string folder = own_folder();
  void* handle = nullptr;
  for (const std::string& place :
       {folder + name, folder + "../bin/" + name, folder + "../lib/" + name, name}) {
    handle = handle != nullptr ? handle : dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle == nullptr) {
    const char* reason = dlerror();
    library.why_not = reason != nullptr ? reason : name;
    return library;
  }
  const auto abi =
      reinterpret_cast<decltype(&kvscope_cusolver_abi)>(dlsym(handle, "kvscope_cusolver_abi"));
  if (abi == nullptr || abi() != KVSCOPE_CUSOLVER_ABI) {
    library.why_not = name + " is of another version";
    return library;
  }
  library.devices = reinterpret_cast<decltype(&kvscope_cusolver_devices)>(
      dlsym(handle, "kvscope_cusolver_devices"));
  library.eigenvalues = reinterpret_cast<decltype(&kvscope_cusolver_eigenvalues)>(
      dlsym(handle, "kvscope_cusolver_eigenvalues"));
  return library;
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

class Cusolver final : public EigenSolver {
 public:
  explicit Cusolver(int device) : device_(device) {}
  const char* name() const override { return "cuSOLVER XsyevBatched"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    std::vector<double> found(static_cast<std::size_t>(n));
    std::int32_t converged = 0;
    std::array<char, 256> text{};
    const int status = library().eigenvalues(device_, n, 1, lower.data(), found.data(), &converged,
                                             text.data(), static_cast<std::int64_t>(text.size()));
    KVSCOPE_CHECK(status == 0, ErrorCode::failed, text.data(), "cuSOLVER",
                  "pass --device cpu, or free memory of the device");
    return converged != 0 ? found : std::vector<double>();
  }
  std::vector<std::vector<double>> batch(const AlignedDoubles& lowers, int n,
                                         int count) const override {
    std::vector<double> found(static_cast<std::size_t>(n) * static_cast<std::size_t>(count));
    std::vector<std::int32_t> converged(static_cast<std::size_t>(count));
    std::array<char, 256> text{};
    const int status =
        library().eigenvalues(device_, n, count, lowers.data(), found.data(), converged.data(),
                              text.data(), static_cast<std::int64_t>(text.size()));
    KVSCOPE_CHECK(status == 0, ErrorCode::failed, text.data(), "cuSOLVER",
                  "pass --device cpu, or free memory of the device");
    std::vector<std::vector<double>> lists(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < lists.size(); ++i) {
      const auto first =
          found.begin() + static_cast<std::ptrdiff_t>(i * static_cast<std::size_t>(n));
      if (converged[i] != 0) {
        lists[i].assign(first, first + n);
      }
    }
    return lists;
  }

 private:
  int device_;
};

}  // namespace

std::shared_ptr<const EigenSolver> solver_for(const std::string& device) {
  if (device == "cpu") {
    return {std::shared_ptr<const void>(), &cpu_solver()};
  }
  int index = 0;
  const std::string number = device.starts_with("cuda:") ? device.substr(5) : "0";
  const char* end = number.data() + number.size();
  const auto parsed = std::from_chars(number.data(), end, index);
  KVSCOPE_CHECK(device.starts_with("cuda") && (device.size() == 4 || device[4] == ':') &&
                    parsed.ec == std::errc() && parsed.ptr == end && index >= 0,
                ErrorCode::usage, fmt::format("there is no device '{}'", device), "device",
                "give cpu, cuda or cuda:N");
  std::array<char, 256> text{};
  const int devices = library().devices == nullptr
                          ? 0
                          : library().devices(text.data(), static_cast<std::int64_t>(text.size()));
  KVSCOPE_CHECK(index < devices, ErrorCode::unsupported,
                fmt::format("device '{}' is not there ({})", device,
                            library().devices == nullptr ? library().why_not
                            : devices > 0                ? fmt::format("{} devices", devices)
                                                         : std::string(text.data())),
                "device",
                "pass --device cpu, or build with -DKVSCOPE_CUDA=ON on a machine with a device");
  return std::make_shared<Cusolver>(index);
}

}  // namespace kvscope::spectral
