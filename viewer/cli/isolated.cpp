#include "isolated.h"

#include <fmt/format.h>

#include <cstdio>
#include <new>

#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::cli {

int read_isolated(const std::string& path, const std::function<int()>& read) {
  return run_isolated(path, [&] {
    try {
      return read();
    } catch (const Error& error) {
      return report_error(error);
    } catch (const std::bad_alloc&) {
      return report_error(Error(ErrorCode::corrupt_file,
                                "reading the file takes far more memory than its size", path,
                                "the file is damaged; take another copy of it"));
    } catch (const std::exception& error) {
      fmt::print(stderr, "error: {}\n", error.what());
      return 1;
    }
  });
}

}  // namespace kvscope::cli
