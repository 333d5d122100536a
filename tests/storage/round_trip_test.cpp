#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"
#include "sample_files.h"

namespace kvscope::test {
namespace {

/// Equal bit for bit, but any NaN equals any other.
void expect_same(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t cell = 0; cell < a.size(); ++cell) {
    EXPECT_TRUE(a[cell] == b[cell] || (std::isnan(a[cell]) && std::isnan(b[cell]))) << cell;
  }
}

TEST(CaptureFile, HeaderAndTokensComeBack) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  const CaptureReader reader(folder / "x.capture.h5");
  const CaptureIndex written = sample_index();
  const CaptureIndex& index = reader.index();
  EXPECT_EQ(index.version_major, 1);
  EXPECT_EQ(index.created_by, written.created_by);
  EXPECT_EQ(index.created_utc, written.created_utc);
  EXPECT_EQ(index.model_name, written.model_name);
  EXPECT_EQ(index.request_json, written.request_json);
  EXPECT_EQ(index.capture_hash, written.capture_hash);
  EXPECT_EQ(index.profile, Profile::qkv);
  EXPECT_EQ(index.shape.kv_heads, 2);
  EXPECT_EQ(index.shape.attention_scale, 0.5);
  EXPECT_EQ(index.shape.logit_softcap, 30);
  EXPECT_EQ(index.shape.layer_windows, written.shape.layer_windows);
  EXPECT_EQ(index.shape.rope.inverse_frequency, written.shape.rope.inverse_frequency);
  EXPECT_EQ(index.shape.rope.attention_factor, 1.25);
  EXPECT_EQ(index.layers, written.layers);
  EXPECT_EQ(index.windows, written.windows);
  EXPECT_EQ(index.tokens, 9);
  EXPECT_EQ(index.prompt_tokens, 6);
  EXPECT_EQ(index.context_tokens, 4);
  EXPECT_EQ(index.first_query, 2);
  EXPECT_EQ(index.steps, 2);
  EXPECT_EQ(index.state, 4);
  const TokenTable& tokens = reader.tokens();
  EXPECT_EQ(tokens.id, (std::vector<std::int32_t>{1, 17, 18, 19, 20, 21, 40, 41}));
  EXPECT_EQ(tokens.position, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(tokens.segment[5], Segment::question);
  EXPECT_EQ(tokens.segment[6], Segment::generated);
  EXPECT_EQ(tokens.text(0, 8), "<s> h\xC3\xA9 why? because");
  EXPECT_EQ(tokens.text(3), "");
}

TEST(CaptureFile, BoxesComeBack) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> box(4);
  reader.read("reduce/attention_sum", {1, 2, 2}, {1, 1, 4}, std::span(box));
  for (std::size_t column = 0; column < 4; ++column) {
    EXPECT_EQ(box[column], sample_value((1 * 4 + 2) * 6 + 2 + column));
  }
  const std::vector<float> plane = reader.read_plane("attention_sum", 0, 9);
  EXPECT_EQ(plane[5], sample_value(5));
  EXPECT_TRUE(std::isnan(plane[6]));  // planned, never written
  EXPECT_EQ(plane[9], sample_value(6));
  EXPECT_EQ(reader.shape("steps/entropy"), (std::vector<std::int64_t>{2, 2, 4}));
  std::vector<std::int32_t> ids(2);
  reader.read("steps/token", {0}, {2}, std::span(ids));
  EXPECT_EQ(ids, (std::vector<std::int32_t>{40, 41}));
  EXPECT_EQ(reader.attribute("reduce/attention_sum", "units"), "attention");
  EXPECT_EQ(reader.attribute("reduce/attention_sum", "formula"), "sum_i p_ij");
  EXPECT_EQ(reader.attribute("", "model_name"), "sample é");
  EXPECT_EQ(reader.attribute("", "no_such_attribute"), "");
}

TEST(CaptureFile, Bfloat16RoundsToNearestEven) {
  const Folder folder;
  CaptureIndex index = sample_index();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  // 1 + 2^-8 is halfway between two bf16 numbers: ties go to the even one, 1; 1 + 3 * 2^-8 to 1 +
  // 2^-6.
  std::vector<float> values(48, 0.0f);
  const std::vector<std::pair<float, float>> cases = {
      {1.0f + 0x1p-8f, 1.0f},
      {1.0f + 3 * 0x1p-8f, 1.0f + 0x1p-6f},
      {1.0f + 0x1.1p-8f, 1.0f + 0x1p-7f},
      {-2.5f, -2.5f},
      {infinity, infinity},
      {-infinity, -infinity},
      {0x1p-133f, 0x1p-133f},      // the least positive
      {0x1.fep127f, 0x1.fep127f},  // the largest finite
      {3.4e38f, infinity}};
  for (std::size_t cell = 0; cell < cases.size(); ++cell) {
    values[cell] = cases[cell].first;
  }
  values[cases.size()] = nan;
  {
    CaptureWriter writer(folder / "x.capture.h5", index, sample_prompt(), sample_datasets(), {});
    writer.write("layers/001/keys", {0, 0, 0}, {2, 6, 4}, std::span<const float>(values));
    writer.finish(0);
  }
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> back(48);
  reader.read("layers/001/keys", {0, 0, 0}, {2, 6, 4}, std::span(back));
  for (std::size_t cell = 0; cell < cases.size(); ++cell) {
    EXPECT_EQ(back[cell], cases[cell].second) << cell;
  }
  EXPECT_TRUE(std::isnan(back[cases.size()]));
}

TEST(CaptureFile, Float16RoundsToNearestEven) {
  const Folder folder;
  std::vector<DatasetSpec> specs = sample_datasets();
  specs[1].type = ElementType::f2;
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, float>> cases = {
      {0.0624902f, 0.0625f},  // carries into the exponent
      {1.0f + 0x1p-11f, 1.0f},
      {1.0f + 3 * 0x1p-11f, 1.0f + 0x1p-9f},
      {-1.0f - 0x1.1p-11f, -1.0f - 0x1p-10f},
      {0x1p-24f, 0x1p-24f},  // the least positive
      {0x1p-25f, 0.0f},      // a tie
      {0x1.8p-24f, 0x1p-23f},
      {0x1.fffp-15f, 0x1p-14f},  // the largest denormal and a half
      {65504.0f, 65504.0f},
      {65519.0f, 65504.0f},
      {65520.0f, infinity},
      {-infinity, -infinity}};
  std::vector<float> values(48, 0.0f);
  for (std::size_t cell = 0; cell < cases.size(); ++cell) {
    values[cell] = cases[cell].first;
  }
  values[cases.size()] = std::numeric_limits<float>::quiet_NaN();
  {
    CaptureWriter writer(folder / "x.capture.h5", sample_index(), sample_prompt(), specs, {});
    writer.write("layers/001/keys", {0, 0, 0}, {2, 6, 4}, std::span<const float>(values));
    writer.finish(0);
  }
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> back(48);
  reader.read("layers/001/keys", {0, 0, 0}, {2, 6, 4}, std::span(back));
  for (std::size_t cell = 0; cell < cases.size(); ++cell) {
    EXPECT_EQ(back[cell], cases[cell].second) << cell;
  }
  EXPECT_TRUE(std::isnan(back[cases.size()]));
}

TEST(CaptureFile, SaysWhatItLacksAndHowToGetIt) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> out(1);
  const auto fix = [&](const std::string& dataset) {
    const Error error = error_of([&] {
      reader.read(dataset, {0, 0, 0}, {1, 1, 1}, std::span(out));
    });
    EXPECT_EQ(error.code(), ErrorCode::missing_data) << dataset;
    EXPECT_NE(error.where().find(dataset), std::string::npos);
    return error.fix();
  };
  EXPECT_NE(fix("layers/001/queries").find("--profile qkv"), std::string::npos);
  EXPECT_NE(fix("layers/001/attention").find("--attention-maps"), std::string::npos);
  EXPECT_NE(fix("reduce/window_9/window_sum").find("--window"), std::string::npos);
  EXPECT_NE(fix("reduce/entropy").find("--profile scores"), std::string::npos);
  EXPECT_NE(fix("reduce/projected_value_norm_l1").find("--profile qkv"), std::string::npos);
  EXPECT_NE(fix("steps/keys").find("--new-tokens"), std::string::npos);
}

TEST(CaptureFile, ChecksBoxes) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> out(4);
  const auto code = [&](std::vector<std::int64_t> offset, std::vector<std::int64_t> count) {
    return error_of([&] { reader.read("reduce/attention_sum", offset, count, std::span(out)); })
        .code();
  };
  EXPECT_EQ(code({0, 0, 6}, {1, 1, 4}), ErrorCode::missing_data);
  EXPECT_EQ(code({0, 0, -1}, {1, 1, 4}), ErrorCode::missing_data);
  EXPECT_EQ(code({0, 0, 0}, {1, 4, 2}), ErrorCode::usage);  // 8 values into 4
  EXPECT_EQ(code({0, 0}, {1, 4}), ErrorCode::usage);
  EXPECT_EQ(code({0, 0, std::int64_t{1} << 62}, {1, 1, 4}), ErrorCode::missing_data);
}

TEST(CaptureFile, WriterRefusesWhatWasNotPlanned) {
  const Folder folder;
  CaptureWriter writer(folder / "x.capture.h5", sample_index(), sample_prompt(), sample_datasets(),
                       {});
  const std::vector<float> values(4);
  const auto code = [&](const std::string& name, std::vector<std::int64_t> offset,
                        std::vector<std::int64_t> count) {
    return error_of([&] { writer.write(name, offset, count, std::span<const float>(values)); })
        .message();
  };
  EXPECT_NE(code("reduce/entropy", {0, 0, 0}, {1, 1, 4}), "");
  EXPECT_NE(code("reduce/attention_sum", {0, 0, 6}, {1, 1, 4}), "");
  EXPECT_NE(code("reduce/attention_sum", {0, 0}, {1, 4}), "");
  EXPECT_NE(code("reduce/attention_sum", {0, 0, 0}, {1, 1, 3}), "");
  EXPECT_EQ(code("reduce/attention_sum", {0, 0, 0}, {1, 1, 4}), "");
  for (int token = 6; token < 9; ++token) {
    writer.append_token(1, token, "x");
  }
  EXPECT_NE(error_of([&] { writer.append_token(1, 9, "x"); }).fix().find("--new-tokens"),
            std::string::npos);
}

TEST(CaptureFile, CompressedPlanesReadTheSame) {
  const Folder folder;
  const std::vector<float> values(48, 0.25f);
  {
    CaptureWriter writer(folder / "x.capture.h5", sample_index(), sample_prompt(),
                         sample_datasets(), {false, true});
    writer.write("reduce/attention_sum", {0, 0, 0}, {2, 4, 6}, std::span<const float>(values));
    writer.finish(0);
  }
  const CaptureReader reader(folder / "x.capture.h5");
  EXPECT_EQ(reader.read_plane("attention_sum", 1, 6), std::vector<float>(24, 0.25f));
  EXPECT_TRUE(check_file(folder / "x.capture.h5").empty());
}

TEST(DecisionFile, EveryFieldComesBack) {
  const Folder folder;
  const Decision written = sample_decision();
  ASSERT_EQ(violations(written), std::vector<std::string>{});
  write_decision(folder / "x.decision.h5", written);
  const Decision read = read_decision(folder / "x.decision.h5");
  EXPECT_EQ(read.method, written.method);
  EXPECT_EQ(read.preset, written.preset);
  EXPECT_EQ(read.descriptor_json, written.descriptor_json);
  EXPECT_EQ(read.keep, written.keep);
  EXPECT_EQ(read.rounding, written.rounding);
  EXPECT_EQ(read.budget_slots, written.budget_slots);
  EXPECT_EQ(read.replayed, written.replayed);
  EXPECT_EQ(read.replay_exact, written.replay_exact);
  EXPECT_EQ(read.capture_hash, written.capture_hash);
  EXPECT_EQ(read.model_name, written.model_name);
  EXPECT_EQ(read.head_dim, written.head_dim);
  EXPECT_EQ(read.tokens, written.tokens);
  EXPECT_EQ(read.cut_tokens, written.cut_tokens);
  EXPECT_TRUE(read.form == written.form);
  EXPECT_EQ(read.term_names, written.term_names);
  ASSERT_EQ(read.events.size(), 2u);
  EXPECT_EQ(read.events[1].step, 1);
  EXPECT_EQ(read.events[1].tokens_seen, 6);
  EXPECT_EQ(read.events[1].wall_ns, 2000);
  ASSERT_EQ(read.layers.size(), 2u);
  for (std::size_t row = 0; row < 2; ++row) {
    const LayerDecision& a = written.layers[row];
    const LayerDecision& b = read.layers[row];
    EXPECT_EQ(b.layer, a.layer);
    EXPECT_EQ(fate_letters(b), fate_letters(a));
    EXPECT_EQ(b.reason, a.reason);
    EXPECT_EQ(b.removed_at, a.removed_at);
    EXPECT_EQ(b.granted, a.granted);
    expect_same(b.scores, a.scores);
    expect_same(b.terms, a.terms);
    expect_same(b.key_rows, a.key_rows);
    EXPECT_EQ(b.key_row_dim, 3);
    ASSERT_EQ(b.edges.size(), 2u);
    EXPECT_EQ(b.edges[0].source, 1);
    EXPECT_EQ(b.edges[0].target, 2);
    EXPECT_EQ(b.edges[0].key_weight, 0.25f);
    EXPECT_EQ(b.edges[0].value_weight, 0.125f);
    EXPECT_EQ(b.edges[0].key_row, -1);
    EXPECT_EQ(b.edges[1].key_row, 0);
    EXPECT_EQ(b.cut[0].last_kept, 0.5f);
    EXPECT_TRUE(std::isnan(b.cut[1].last_kept));
  }
  EXPECT_EQ(read.metrics.queries, written.metrics.queries);
  EXPECT_EQ(read.metrics.query_count, 3);
  EXPECT_TRUE(read.metrics.seen_by_method);
  expect_same(read.metrics.output_error, written.metrics.output_error);
  expect_same(read.metrics.retained_mass, written.metrics.retained_mass);
  expect_same(read.metrics.retained_mass_no_sinks, written.metrics.retained_mass_no_sinks);
  expect_same(read.metrics.lost_error, written.metrics.lost_error);
}

TEST(DecisionFile, BrokenRulesAreNeverWritten) {
  const Folder folder;
  Decision broken = sample_decision();
  broken.layers[0].granted = {2, 4};
  EXPECT_NE(error_of([&] { write_decision(folder / "x.decision.h5", broken); }).message(), "");
  EXPECT_TRUE(folder.names().empty());
}

TEST(SpectrumFile, EveryFieldComesBack) {
  const Folder folder;
  const Spectrum written = sample_spectrum();
  write_spectrum(folder / "x.spectrum.h5", written);
  const Spectrum read = read_spectrum(folder / "x.spectrum.h5");
  EXPECT_EQ(read.model_name, written.model_name);
  EXPECT_EQ(read.model_hash, written.model_hash);
  EXPECT_EQ(read.layers, written.layers);
  EXPECT_EQ(read.projections, written.projections);
  EXPECT_EQ(read.status, written.status);
  EXPECT_EQ(read.message, written.message);
  ASSERT_EQ(read.tables.size(), 2u);
  for (const auto& [name, table] : written.tables) {
    const SpectrumTable* found = read.find(name);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(found->shape, table.shape);
    EXPECT_EQ(found->axes, table.axes);
    EXPECT_EQ(found->units, table.units);
    EXPECT_EQ(found->formula, table.formula);
    for (std::size_t cell = 0; cell < table.values.size(); ++cell) {
      EXPECT_TRUE(found->values[cell] == table.values[cell] ||
                  (std::isnan(found->values[cell]) && std::isnan(table.values[cell])))
          << name << " " << cell;
    }
  }
}

TEST(Files, ExistingOnesStayUnlessForced) {
  const Folder folder;
  write_bytes(folder / "x.h5", "precious");
  EXPECT_EQ(error_of([&] { write_sample_capture(folder / "x.h5"); }).code(), ErrorCode::usage);
  EXPECT_EQ(error_of([&] { write_decision(folder / "x.h5", sample_decision()); }).code(),
            ErrorCode::usage);
  EXPECT_EQ(error_of([&] { write_spectrum(folder / "x.h5", sample_spectrum()); }).code(),
            ErrorCode::usage);
  EXPECT_EQ(read_bytes(folder / "x.h5"), "precious");
  write_sample_capture(folder / "x.h5", true);
  EXPECT_EQ(file_kind(folder / "x.h5"), FileKind::capture);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x.h5"});
}

TEST(Files, CheckFindsThemSound) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  write_decision(folder / "x.decision.h5", sample_decision());
  write_spectrum(folder / "x.spectrum.h5", sample_spectrum());
  for (const std::string& name : folder.names()) {
    EXPECT_EQ(check_file(folder / name), std::vector<std::string>{}) << name;
    EXPECT_FALSE(describe_datasets(folder / name).empty());
  }
}

}  // namespace
}  // namespace kvscope::test
