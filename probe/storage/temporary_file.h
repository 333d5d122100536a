#pragma once

#include <string>

namespace kvscope {

/// A file under a temporary name beside its final one: renamed by `commit`, removed otherwise.
class TemporaryFile {
 public:
  /// Throws Error{usage} if `path` exists and `force` is off, Error{io} if its folder does not.
  TemporaryFile(std::string path, bool force);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& name() const { return temporary_; }
  const std::string& path() const { return path_; }
  /// Throws Error{io}. The file must be closed.
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  bool force_;
  bool committed_ = false;
};

}  // namespace kvscope
