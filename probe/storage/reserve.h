#pragma once

#include <string>

namespace kvscope {

/// Disk space put aside beside a live file, so that its last words get out when the disk is full.
/// It has no name: nothing is left of it however the process ends.
class Reserve {
 public:
  static constexpr long bytes = 1L << 20;

  /// Best effort: a disk that is too full for it already, or cannot put space aside, gives none.
  explicit Reserve(const std::string& beside);
  ~Reserve() { release(); }
  Reserve(const Reserve&) = delete;
  Reserve& operator=(const Reserve&) = delete;

  bool held() const { return descriptor_ >= 0; }
  /// Gives the space back to the file system.
  void release() noexcept;

 private:
  int descriptor_ = -1;
};

}  // namespace kvscope
