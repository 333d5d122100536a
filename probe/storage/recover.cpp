#include "kvscope/storage/recover.h"

#include <vector>

#include "dataset_copy.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope {

using h5::Handle;
using h5::Session;

Recovered recover_capture(const std::string& path, const std::string& output, bool force) {
  const Session session;
  KVSCOPE_CHECK(!being_written(path), ErrorCode::usage, "the capture is still being written", path,
                "wait for its end; readers may follow it meanwhile");
  const CaptureReader reader(path);
  const CaptureIndex& index = reader.index();
  KVSCOPE_CHECK(index.state != static_cast<int>(CaptureState::done), ErrorCode::usage,
                "the capture is complete: there is nothing to recover", path, "use it as it is");
  const Handle file = h5::open_file(path);
  std::vector<DatasetSpec> specs;
  for (const std::string& name : reader.datasets()) {
    if (!h5::made_by_writer(name)) {
      specs.push_back(h5::spec_of(file, name));
      if (name.starts_with("steps/") && !specs.back().shape.empty()) {
        specs.back().shape[0] = index.steps;
      }
    }
  }
  Recovered recovered;
  recovered.steps = index.steps;
  recovered.layers = static_cast<int>(index.layers.size());
  recovered.state = index.state;
  CaptureWriter writer(output, index, h5::prompt_of(reader.tokens(), index.prompt_tokens), specs,
                       {force, false, false});
  for (const DatasetSpec& spec : specs) {
    h5::copy_part(file, spec.path, spec.type, h5::whole_of(spec.shape), writer);
  }
  for (const DroppedRange& range : reader.dropped()) {
    writer.add_dropped(range);
  }
  const TokenTable& tokens = reader.tokens();
  for (int token = tokens.prompt_tokens; token < tokens.size(); ++token) {
    const auto at = static_cast<std::size_t>(token);
    writer.append_token(tokens.id[at], tokens.position[at], tokens.text(token));
  }
  for (int row = 0; row < recovered.layers; ++row) {
    if (reader.layer_done(row)) {
      writer.layer_done(row);
      ++recovered.layers_done;
    }
  }
  const bool running = index.state < static_cast<int>(CaptureState::done);
  writer.finish(index.steps,
                running ? CaptureState::error : static_cast<CaptureState>(index.state));
  return recovered;
}

}  // namespace kvscope
