#include "out_of_memory.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <new>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

/// Memory the process holds now, in MiB.
double resident_mib() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  double resident = 0;
  statm >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

/// ", N bytes were asked for" from LibTorch's words; empty if they do not say.
std::string asked_for(const std::string& message) {
  const std::string words = "tried to allocate ";
  const std::size_t at = message.find(words);
  if (at == std::string::npos) {
    return {};
  }
  const std::size_t begin = at + words.size();
  return ", " + message.substr(begin, message.find_first_of(".\n", begin) - begin) +
         " were asked for";
}

[[noreturn]] void fail(const std::string& asked, const std::string& where) {
  throw Error(ErrorCode::failed,
              fmt::format("out of memory: the process holds {:.0f} MiB{}", resident_mib(), asked),
              where,
              "a smaller --chunk, fewer --layers, --profile window or a shorter prompt needs less");
}

}  // namespace

void name_out_of_memory(const std::function<void()>& work,
                        const std::function<std::string()>& where) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    fail("", where());
  } catch (const c10::OutOfMemoryError& error) {
    fail(asked_for(error.what_without_backtrace()), where());
  } catch (const c10::Error& error) {  // the allocator of the CPU has no type of its own for it
    const std::string message = error.what_without_backtrace();
    if (message.find("allocate memory") == std::string::npos &&
        message.find("not enough memory") == std::string::npos) {
      throw;
    }
    fail(asked_for(message), where());
  }
}

}  // namespace kvscope::detail
