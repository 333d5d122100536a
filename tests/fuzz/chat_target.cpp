#include "chat_form.h"
#include "fuzz_targets.h"
#include "jinja_engine.h"
#include "kvscope/core/error.h"
#include "template_check.h"

// A template runs in a child process, which a fuzzer cannot see into: here it is parsed in this one
// too, within the bounds that are checked before. What runs in the child must end, whatever it
// does.

namespace kvscope::fuzz {

void chat_template(std::span<const std::uint8_t> bytes) {
  const std::string all(bytes.begin(), bytes.end());
  const std::size_t end = all.find('\0');
  const std::string message = end == std::string::npos ? "some text" : all.substr(0, end);
  const std::string source = end == std::string::npos ? all : all.substr(end + 1);
  try {
    check_template(source);
    parse_jinja(source);
    chat_form({source, "<s>", "</s>"}, message,
              {.cpu_ms = 100, .memory_mib = 128, .output_mib = 1});
  } catch (const JinjaError&) {
    // the parser said what is wrong
  } catch (const Error&) {
    // so did we
  }
}

}  // namespace kvscope::fuzz
