#include "reserve.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace kvscope {

Reserve::Reserve(const std::string& beside) {
  const std::string folder = std::filesystem::absolute(beside).parent_path().string();
  descriptor_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor_ < 0) {  // a file system without files that have no name
    std::string name = beside + ".reserve.XXXXXX";
    descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor_ >= 0) {
      ::unlink(name.c_str());
    }
  }
  if (descriptor_ >= 0 && ::posix_fallocate(descriptor_, 0, bytes) != 0) {
    release();
  }
}

void Reserve::release() noexcept {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    descriptor_ = -1;
  }
}

}  // namespace kvscope
