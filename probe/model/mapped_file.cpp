#include "mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kvscope/core/error.h"

namespace kvscope {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  KVSCOPE_CHECK(descriptor_ >= 0, ErrorCode::io,
                fmt::format("cannot open the file: {}", std::strerror(errno)), path,
                "check the name and the permissions");
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw Error(ErrorCode::io, "this is not a regular file", path, "name a file");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) {
    return;
  }
  void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (mapping == MAP_FAILED) {
    const int reason = errno;
    ::close(descriptor_);
    throw Error(ErrorCode::io, fmt::format("cannot map the file: {}", std::strerror(reason)), path);
  }
  data_ = static_cast<const std::uint8_t*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    munmap(const_cast<std::uint8_t*>(data_), size_);
  }
  ::close(descriptor_);
}

void MappedFile::check_size() const {
  struct stat status {};
  KVSCOPE_CHECK(
      fstat(descriptor_, &status) == 0 && static_cast<std::size_t>(status.st_size) >= size_,
      ErrorCode::io, "the file was cut short while it was in use", path_,
      "leave model files alone while kvscope reads them");
}

void MappedFile::release() const {
  if (data_ != nullptr) {
    madvise(const_cast<std::uint8_t*>(data_), size_, MADV_DONTNEED);
  }
}

}  // namespace kvscope
