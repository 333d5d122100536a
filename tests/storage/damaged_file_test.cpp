#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>
#include <map>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"
#include "sample_files.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace kvscope::test {
namespace {

/// Reads all of a file of ours, whatever kind it says it is.
void read_whole(const std::string& path) {
  check_file(path);
}

/// What HDF5 itself does not give back when it cannot open a file is not counted as a leak.
void ignore_leaks(bool ignore) {
#ifdef __SANITIZE_ADDRESS__
  ignore ? __lsan_disable() : __lsan_enable();
#else
  static_cast<void>(ignore);
#endif
}

/// One file of each kind in a folder; `changed` opens one with HDF5 and lets a test spoil it.
class DamagedFile : public testing::Test {
 protected:
  void TearDown() override { ignore_leaks(false); }
  void SetUp() override {
    ignore_leaks(true);
    write_sample_capture(folder_ / "x.capture.h5");
    write_decision(folder_ / "x.decision.h5", sample_decision());
    write_spectrum(folder_ / "x.spectrum.h5", sample_spectrum());
  }

  std::string changed(const std::string& name, const std::function<void(hid_t)>& change) {
    const std::string path = folder_ / ("changed." + name);
    write_bytes(path, read_bytes(folder_ / name));
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, access);
    EXPECT_GE(file, 0);
    change(file);
    H5Fclose(file);
    H5Pclose(access);
    return path;
  }

  Folder folder_;
};

void set_number(hid_t object, const char* name, std::int64_t value) {
  if (H5Aexists(object, name) > 0) {
    H5Adelete(object, name);
  }
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, H5T_NATIVE_INT64, &value);
  H5Aclose(attribute);
  H5Sclose(space);
}

/// Replaces a dataset by another of the given shape and type; nothing is written to it.
void replace_dataset(hid_t file, const char* name, const std::vector<hsize_t>& shape, hid_t type) {
  H5Ldelete(file, name, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t plan = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunk(shape.size(), 1);
  H5Pset_chunk(plan, static_cast<int>(chunk.size()), chunk.data());
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plan, H5P_DEFAULT);
  EXPECT_GE(dataset, 0) << name;
  H5Dclose(dataset);
  H5Pclose(plan);
  H5Sclose(space);
}

TEST_F(DamagedFile, EveryLengthIsRefused) {
  for (const std::string name : {"x.capture.h5", "x.decision.h5", "x.spectrum.h5"}) {
    const std::string whole = read_bytes(folder_ / name);
    const std::string cut = folder_ / "cut.h5";
    ASSERT_GT(whole.size(), 4000u);
    // Every length of the superblock and the first object header, of the end, and a sweep between.
    std::vector<std::size_t> sizes;
    for (std::size_t size = 0; size < whole.size();
         size += size < 512 ? 1 : std::max<std::size_t>(1, whole.size() / 500)) {
      sizes.push_back(size);
    }
    for (std::size_t size = whole.size() - 64; size < whole.size(); ++size) {
      sizes.push_back(size);
    }
    for (const std::size_t size : sizes) {
      write_bytes(cut, whole.substr(0, size));
      const Error error = error_of([&] { read_whole(cut); });
      ASSERT_NE(error.message(), "") << name << " cut to " << size << " of " << whole.size();
      ASSERT_NE(error.where(), "") << name << " cut to " << size;
    }
  }
}

TEST_F(DamagedFile, EveryBitOfTheHeaderFlippedIsRefusedOrHarmless) {
  const std::string whole = read_bytes(folder_ / "x.capture.h5");
  const std::string flipped = folder_ / "flipped.h5";
  int refused = 0;
  constexpr std::size_t header = 256;  // superblock and the root group's object header
  for (std::size_t bit = 0; bit < header * 8; ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    write_bytes(flipped, bytes);
    const Error error = error_of([&] {
      const CaptureReader reader(flipped);
      EXPECT_EQ(reader.index().shape.query_heads, 4) << bit;
      EXPECT_EQ(reader.tokens().id.size(), 8u) << bit;
    });
    refused += error.message().empty() ? 0 : 1;
  }
  EXPECT_GT(refused, static_cast<int>(header) * 4);
}

TEST_F(DamagedFile, ForeignFilesAreNamedForWhatTheyAre) {
  const std::string foreign =
      changed("x.capture.h5", [](hid_t file) { H5Adelete(file, "format"); });
  EXPECT_EQ(file_kind(foreign), FileKind::unknown);
  EXPECT_NE(error_of([&] { CaptureReader{foreign}; }).message().find("no kvscope.capture"),
            std::string::npos);
  const std::string capture = folder_ / "x.capture.h5";
  EXPECT_NE(error_of([&] { read_decision(capture); }).message().find("kvscope.capture"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read_spectrum(folder_ / "x.decision.h5"); })
                .message()
                .find("kvscope.decision"),
            std::string::npos);
  write_bytes(folder_ / "text.h5", "hello");
  EXPECT_EQ(error_of([&] { CaptureReader{folder_ / "text.h5"}; }).code(), ErrorCode::corrupt_file);
  EXPECT_EQ(error_of([&] { CaptureReader{folder_ / "absent.h5"}; }).code(), ErrorCode::io);
  EXPECT_EQ(error_of([&] { check_file(folder_ / "text.h5"); }).code(), ErrorCode::unsupported);
}

TEST_F(DamagedFile, NewerMajorIsRefusedNewerMinorIsRead) {
  const std::map<std::string, std::function<void(const std::string&)>> readers = {
      {"x.capture.h5", [](const std::string& path) { CaptureReader{path}; }},
      {"x.decision.h5", [](const std::string& path) { read_decision(path); }},
      {"x.spectrum.h5", [](const std::string& path) { read_spectrum(path); }}};
  for (const auto& reader : readers) {
    const std::string& name = reader.first;
    const auto error_in = [&](const std::string& path) {
      return error_of([&] { reader.second(path); });
    };
    const std::string major =
        changed(name, [](hid_t file) { set_number(file, "version_major", 2); });
    const Error error = error_in(major);
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << name;
    EXPECT_NE(error.fix().find("newer"), std::string::npos) << name;
    const std::string minor =
        changed(name, [](hid_t file) { set_number(file, "version_minor", 9); });
    EXPECT_EQ(error_in(minor).message(), "") << name;
    const std::string absent = changed(name, [](hid_t file) { H5Adelete(file, "version_major"); });
    EXPECT_EQ(error_in(absent).code(), ErrorCode::corrupt_file) << name;
  }
}

TEST_F(DamagedFile, UnknownObjectsAreIgnored) {
  const auto add = [](hid_t file) {
    set_number(file, "from_the_future", 1);
    const hid_t group = H5Gcreate2(file, "future", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, H5T_VARIABLE);
    H5Dclose(H5Dcreate2(group, "text", text, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Tclose(text);
    H5Sclose(space);
    H5Gclose(group);
  };
  EXPECT_EQ(CaptureReader(changed("x.capture.h5", add)).index().prompt_tokens, 6);
  EXPECT_EQ(read_decision(changed("x.decision.h5", add)).tokens, 7);
  EXPECT_EQ(read_spectrum(changed("x.spectrum.h5", add)).layers.size(), 2u);
}

TEST_F(DamagedFile, HostileSizesAreRefusedBeforeMemoryIsTaken) {
  const std::vector<std::pair<const char*, std::int64_t>> sizes = {
      {"layers", 0},
      {"layers", std::int64_t{1} << 40},
      {"query_heads", 3},
      {"query_heads", -1},
      {"kv_heads", 0},
      {"kv_heads", 3},
      {"head_dim", 1 << 20},
      {"prompt_tokens", 0},
      {"prompt_tokens", 1 << 29},
      {"planned_tokens", 2},
      {"context_tokens", 7},
      {"first_query", 7},
      {"first_query", -1},
      {"rope_dims", 99}};
  for (const auto& [name, value] : sizes) {
    const std::string path =
        changed("x.capture.h5", [&, n = name, v = value](hid_t file) { set_number(file, n, v); });
    EXPECT_EQ(error_of([&] { CaptureReader{path}; }).code(), ErrorCode::corrupt_file)
        << name << " = " << value;
  }
  const std::string text = changed("x.capture.h5", [](hid_t file) {
    H5Adelete(file, "prompt_tokens");
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Aclose(H5Acreate2(file, "prompt_tokens", type, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Tclose(type);
    H5Sclose(space);
  });
  EXPECT_EQ(error_of([&] { CaptureReader{text}; }).code(), ErrorCode::corrupt_file);
}

TEST_F(DamagedFile, HostileShapesAreRefusedBeforeMemoryIsTaken) {
  const hsize_t huge = hsize_t{1} << 45;
  const std::vector<std::pair<const char*, std::vector<hsize_t>>> shapes = {
      {"tokens/id", {8, 2}},
      {"tokens/id", {1u << 30}},
      {"tokens/text_bytes", {hsize_t{1} << 36}},
      {"tokens/text_bytes", {huge}},
      {"axes/layer", {1u << 20}},
      {"axes/layer", {2, 2}},
      {"reduce/attention_sum", {2, 2, 9}},  // KV heads where query heads belong
      {"reduce/attention_sum", {2, 4, 5}},
      {"reduce/attention_sum", {2, 4}},
      {"layers/001/keys", {2, 6, 3}},
      {"layers/001/keys", {huge, 6, 4}},
      {"steps/entropy", {1, 2, 4}},
      {"status/state", {huge}}};
  for (const auto& [name, shape] : shapes) {
    const std::string path = changed("x.capture.h5", [&, n = name, s = shape](hid_t file) {
      replace_dataset(file, n, s, H5T_STD_I32LE);
    });
    EXPECT_EQ(error_of([&] { CaptureReader{path}; }).code(), ErrorCode::corrupt_file)
        << name << " of rank " << shape.size();
  }
  for (const char* name :
       {"decisions/fate", "decisions/removed_at", "decisions/granted", "decisions/cut",
        "decisions/score", "decisions/events", "decisions/merge/source", "decisions/merge/offset",
        "decisions/descriptor_json", "decisions/metrics/lost_error"}) {
    const std::string path = changed("x.decision.h5", [&](hid_t file) {
      replace_dataset(file, name, {hsize_t{1} << 33, 2}, H5T_STD_I32LE);
    });
    EXPECT_EQ(error_of([&] { read_decision(path); }).code(), ErrorCode::corrupt_file) << name;
  }
  const std::string table = changed("x.spectrum.h5", [](hid_t file) {
    replace_dataset(file, "spectrum/layer/q/eigenvalues", {hsize_t{1} << 31}, H5T_IEEE_F64LE);
  });
  EXPECT_EQ(error_of([&] { read_spectrum(table); }).code(), ErrorCode::corrupt_file);
}

TEST_F(DamagedFile, ContradictionsAreRefused) {
  const auto fill = [](const char* name, std::int32_t value) {
    return [=](hid_t file) {
      const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
      const hid_t space = H5Dget_space(dataset);
      const std::vector<std::int32_t> values(
          static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)), value);
      H5Dwrite(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
      H5Sclose(space);
      H5Dclose(dataset);
    };
  };
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, std::int32_t>>{{"axes/layer", 8},
                                                         {"axes/layer", -1},
                                                         {"tokens/segment", 9},
                                                         {"tokens/text_end", 999},
                                                         {"tokens/text_end", -1}}) {
    const std::string path = changed("x.capture.h5", fill(name, value));
    EXPECT_EQ(error_of([&] { CaptureReader{path}; }).code(), ErrorCode::corrupt_file)
        << name << " = " << value;
  }
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, std::int32_t>>{{"decisions/fate", 5},
                                                         {"decisions/fate", 0x92},
                                                         {"decisions/removed_at", 7},
                                                         {"decisions/merge/source", 7},
                                                         {"decisions/merge/target", -3},
                                                         {"decisions/merge/offset", 99},
                                                         {"decisions/merge/key_row_index", 1 << 30},
                                                         {"decisions/merge/key_row_offset", -5}}) {
    const std::string path = changed("x.decision.h5", fill(name, value));
    EXPECT_EQ(error_of([&] { read_decision(path); }).code(), ErrorCode::corrupt_file)
        << name << " = " << value;
  }
}

}  // namespace
}  // namespace kvscope::test
