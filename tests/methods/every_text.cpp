#include "every_text.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

#include "kvscope/core/error.h"
#include "kvscope/storage/calibration_file.h"
#include "registry/method_pieces.h"

namespace kvscope::testing {
namespace {

/// Values for parameters whose defaults fit real prompts only.
const std::map<std::string, std::string> small{
    {"window", "4"}, {"pool", "3"}, {"prompt", "evictable"}, {"recent", "2"}, {"lag", "4"}};

/// A calibration for a model of these sizes, in which all heads are alike, on disk while tests run.
class CalibrationFile {
 public:
  explicit CalibrationFile(const FakeSizes& sizes)
      : path_(std::string(KVSCOPE_BINARY_DIR) + "/every_method_" + std::to_string(::getpid()) +
              "_" + std::to_string(sizes.query_heads) + ".calibration.h5") {
    Calibration calibration;
    calibration.model_name = "fake";
    calibration.model_hash = fake_model_hash;
    calibration.corpus_hash = "0000000000000000";
    calibration.layers = sizes.layers;
    calibration.query_heads = sizes.query_heads;
    calibration.kv_heads = sizes.kv_heads;
    calibration.head_dim = sizes.head_dim;
    calibration.tokens = 1000;
    calibration.window = 100;
    const int bands = sizes.head_dim / 2;
    for (const auto& [name, scale] :
         {std::pair{"queries/mean_real", 1.0F}, std::pair{"queries/mean_imaginary", -0.5F},
          std::pair{"queries/mean_abs", 2.0F}}) {
      CalibrationArray array;
      array.shape = {sizes.layers, sizes.query_heads, bands};
      array.axes = {"layer", "query_head", "band"};
      for (int row = 0; row < sizes.layers * sizes.query_heads; ++row) {
        for (int band = 0; band < bands; ++band) {
          array.values.push_back(scale * static_cast<float>(1 + band + row / sizes.query_heads));
        }
      }
      calibration.arrays[name] = array;
    }
    CalibrationArray filter;
    filter.shape = {sizes.layers, sizes.kv_heads, sizes.head_dim};
    filter.axes = {"layer", "kv_head", "channel"};
    for (int cell = 0; cell < sizes.layers * sizes.kv_heads * sizes.head_dim; ++cell) {
      filter.values.push_back(0.25F * static_cast<float>(1 + cell % sizes.head_dim));
    }
    calibration.arrays["queries/filter"] = filter;
    write_calibration(path_, calibration, true);
  }
  ~CalibrationFile() { std::remove(path_.c_str()); }
  CalibrationFile(const CalibrationFile&) = delete;
  CalibrationFile& operator=(const CalibrationFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string joined(const PieceInfo& info, const std::map<std::string, std::string>& values) {
  std::string text = info.name;
  char separator = ':';
  for (const auto& [name, value] : values) {
    text += separator + name + "=" + value;
    separator = ',';
  }
  return text;
}

/// The piece as it stands, and once for each value of each choice and switch.
std::vector<std::string> variants(const PieceInfo& info, const std::string& calibration) {
  std::map<std::string, std::string> base;
  for (const ParameterInfo& parameter : info.parameters) {
    const auto found = small.find(parameter.name);
    if (found != small.end() && parameter.type != ParameterInfo::Type::real) {
      base[found->first] = found->second;
    } else if (parameter.name == "calibration") {
      base[parameter.name] = calibration;
    }
  }
  std::vector<std::string> texts{joined(info, base)};
  for (const ParameterInfo& parameter : info.parameters) {
    if (parameter.type != ParameterInfo::Type::boolean &&
        parameter.type != ParameterInfo::Type::choice) {
      continue;
    }
    std::stringstream choices(parameter.range);
    for (std::string choice; std::getline(choices, choice, '|');) {
      const auto based = base.find(parameter.name);
      if (choice != (based == base.end() ? parameter.default_value : based->second)) {
        std::map<std::string, std::string> values = base;
        values[parameter.name] = choice;
        texts.push_back(joined(info, values));
      }
    }
  }
  return texts;
}

/// Whether the text is a method, of which a capture is enough to decide.
bool decides_from_captures(const std::string& text) {
  try {
    const std::vector<Method> methods = parse_methods(text);
    const auto& cadence = methods.front().pieces().parts.cadence;
    return methods.size() == 1 && (!cadence || cadence->decides_once());
  } catch (const Error&) {
    return false;
  }
}

bool scores(const PieceInfo& info) {
  return info.kind == PieceInfo::Kind::scorer || info.kind == PieceInfo::Kind::preset;
}

std::vector<std::string> make_texts(const std::string& calibration) {
  std::vector<std::string> texts;
  const auto add = [&](const std::string& text) {
    if (decides_from_captures(text)) {
      texts.push_back(text);
    }
  };
  for (const PieceInfo& first : registry()) {
    if (!scores(first)) {
      continue;
    }
    const std::vector<std::string> alone = variants(first, calibration);
    for (const std::string& text : alone) {
      add(text);
    }
    for (const PieceInfo& later : registry()) {
      for (const std::string& piece :
           scores(later) ? std::vector<std::string>{} : variants(later, calibration)) {
        add(alone.front() + " | " + piece);
      }
    }
  }
  return texts;
}

}  // namespace

const std::vector<std::string>& every_text(const FakeSizes& sizes) {
  static std::map<int, std::unique_ptr<CalibrationFile>> files;
  static std::map<int, std::vector<std::string>> texts;
  const int key = sizes.query_heads;
  if (texts.count(key) == 0) {
    files[key] = std::make_unique<CalibrationFile>(sizes);
    texts[key] = make_texts(files[key]->path());
  }
  return texts[key];
}

std::vector<std::string> live_only() {
  std::vector<std::string> names;
  for (const PieceInfo& info : registry()) {
    const auto reads_file = [](const ParameterInfo& parameter) {
      return parameter.name == "calibration";
    };
    if (scores(info) && std::none_of(info.parameters.begin(), info.parameters.end(), reads_file) &&
        !decides_from_captures(info.name)) {
      names.push_back(info.name);
    }
  }
  return names;
}

double combined(const PieceInfo& info, const std::vector<double>& terms) {
  std::stringstream words(info.combine);
  double sum = 0;
  double product = 1;
  for (std::string word; words >> word;) {
    if (word == "+") {
      sum += product;
      product = 1;
    } else if (word != "*") {
      if (word.starts_with("-")) {
        product = -product;
        word.erase(0, 1);
      }
      const auto named = [&](const TermInfo& term) { return term.name == word; };
      const auto found = std::find_if(info.terms.begin(), info.terms.end(), named);
      KVSCOPE_CHECK(found != info.terms.end(), ErrorCode::failed,
                    "'" + info.name + "' combines an unknown term '" + word + "'", "registry",
                    "name a term of the piece");
      product *= terms[static_cast<std::size_t>(found - info.terms.begin())];
    }
  }
  return sum + product;
}

}  // namespace kvscope::testing
