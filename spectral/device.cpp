// The CUDA half lives in libkvscope_cusolver.so, opened on demand: one build serves machines with
// and without a device.
#include "device.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "cuda/kvscope_cusolver.h"
#include "kvscope/core/device_library.h"
#include "kvscope/core/error.h"

namespace kvscope::spectral {
namespace {

struct Library {
  decltype(&kvscope_cusolver_devices) devices = nullptr;
  decltype(&kvscope_cusolver_eigenvalues) eigenvalues = nullptr;
  std::string why_not;
};

Library open_library() {
  const DeviceLibrary opened("libkvscope_cusolver", KVSCOPE_CUSOLVER_ABI);
  return {opened.function<decltype(kvscope_cusolver_devices)>("kvscope_cusolver_devices"),
          opened.function<decltype(kvscope_cusolver_eigenvalues)>("kvscope_cusolver_eigenvalues"),
          opened.why_not()};
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
