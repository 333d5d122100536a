#include <gtest/gtest.h>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"
#include "sample_files.h"

namespace kvscope::test {
namespace {

/// Files as version 1.0 wrote them, of the samples of this folder. They are never written anew.
const std::string released = KVSCOPE_SOURCE_DIR "/data/released/1.0/";

TEST(ReleasedFiles, CaptureStaysReadable) {
  const CaptureReader reader(released + "sample.capture.h5");
  EXPECT_EQ(reader.index().model_name, sample_index().model_name);
  EXPECT_EQ(reader.index().layers, sample_index().layers);
  EXPECT_EQ(reader.index().steps, 2);
  EXPECT_EQ(reader.tokens().text(0, 8), "<s> h\xC3\xA9 why? because");
  EXPECT_EQ(reader.read_plane("attention_sum", 1, 6)[7], sample_value(31));
  EXPECT_TRUE(check_file(released + "sample.capture.h5").empty());
}

TEST(ReleasedFiles, DecisionStaysReadable) {
  const Decision decision = read_decision(released + "sample.decision.h5");
  const Decision written = sample_decision();
  ASSERT_EQ(decision.layers.size(), written.layers.size());
  EXPECT_EQ(fate_letters(decision.layers[1]), fate_letters(written.layers[1]));
  EXPECT_EQ(decision.layers[0].edges.size(), written.layers[0].edges.size());
  EXPECT_EQ(decision.metrics.lost_error, written.metrics.lost_error);
}

TEST(ReleasedFiles, SpectrumStaysReadable) {
  const Spectrum spectrum = read_spectrum(released + "sample.spectrum.h5");
  const SpectrumTable* table = spectrum.find("spectrum/layer/q/eigenvalues");
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->values[1], 2.0);
  EXPECT_EQ(table->axes, (std::vector<std::string>{"layer", "rank"}));
}

}  // namespace
}  // namespace kvscope::test
