#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "back_pressure.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::detail {

/// One thread that owns every write of a capture. While more than the queue's limit waits, `put`
/// blocks or gives up, by what is written (`BackPressure`); what is given up is listed in
/// /status/dropped. An error of the writer is thrown by the next call, once.
class WriterThread {
 public:
  explicit WriterThread(CaptureWriter& writer, WriterPolicy policy = {});
  ~WriterThread();
  WriterThread(const WriterThread&) = delete;
  WriterThread& operator=(const WriterThread&) = delete;

  /// Writes `values` (float32, int32 or int64, any strides; must not change any more) as the box at
  /// `offset` of extent `count`. Rows of /steps wait for the next `then`, or until they are many:
  /// waking the writer for each of them costs a decode step more than their numbers do.
  void put(const std::string& dataset, std::vector<std::int64_t> offset,
           std::vector<std::int64_t> count, at::Tensor values);
  /// Runs `work` on the writer thread, after all that was put before.
  void then(std::function<void(CaptureWriter&)> work);
  /// Lists what was given up since the last call in the file, after all that was put before.
  void list_dropped();
  /// Waits until all is written.
  void drain();
  /// Time `put` has waited so far.
  std::int64_t stall_ns() const { return stall_ns_; }
  /// Bytes given up so far.
  std::int64_t dropped_bytes() const { return pressure_.dropped_bytes(); }

 private:
  struct Job {
    std::string dataset;
    std::vector<std::int64_t> offset;
    std::vector<std::int64_t> count;
    at::Tensor values;
    std::function<void(CaptureWriter&)> work;  ///< instead of a write
  };
  static std::int64_t bytes_of(const Job& job);
  void run();
  void write(const Job& job);
  /// Takes the rows of the steps that follow out of the queue, up to the next `then`, to be written
  /// at once.
  void join_rows(Job& job);
  void rethrow();
  /// Whether `bytes` more may be queued now; waits for it, at most `patience` where there is one.
  bool make_room(std::unique_lock<std::mutex>& lock, std::int64_t bytes,
                 std::optional<std::chrono::milliseconds> patience);

  CaptureWriter& writer_;
  WriterPolicy policy_;
  BackPressure pressure_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::int64_t waiting_bytes_ = 0;
  bool busy_ = false;
  bool stop_ = false;
  std::exception_ptr failure_;
  std::int64_t stall_ns_ = 0;
  std::thread thread_;
};

}  // namespace kvscope::detail
