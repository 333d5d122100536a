#include "writer_thread.h"

#include <ATen/ops/stack.h>

#include <chrono>
#include <iterator>
#include <span>
#include <utility>

namespace kvscope::detail {
namespace {

/// Rows of decode steps that wait do not wake the writer until they are so many bytes.
constexpr std::int64_t waking_bytes = std::int64_t{4} << 20;

}  // namespace

WriterThread::WriterThread(CaptureWriter& writer, WriterPolicy policy)
    : writer_(writer), policy_(std::move(policy)), thread_([this] { run(); }) {}

WriterThread::~WriterThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

std::int64_t WriterThread::bytes_of(const Job& job) {
  return job.values.defined() ? static_cast<std::int64_t>(job.values.nbytes()) : 0;
}

void WriterThread::rethrow() {
  if (failure_) {
    std::rethrow_exception(std::exchange(failure_, nullptr));
  }
}

bool WriterThread::make_room(std::unique_lock<std::mutex>& lock, std::int64_t bytes,
                             std::optional<std::chrono::milliseconds> patience) {
  const auto ready = [&] {
    return failure_ || waiting_bytes_ == 0 || waiting_bytes_ + bytes <= policy_.queue_bytes;
  };
  if (ready()) {
    return true;
  }
  changed_.notify_all();  // rows of a series wait without having woken the writer
  const auto start = std::chrono::steady_clock::now();
  bool room = true;
  if (patience) {
    room = changed_.wait_for(lock, *patience, ready);
  } else {
    changed_.wait(lock, ready);
  }
  stall_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  return room;
}

void WriterThread::put(const std::string& dataset, std::vector<std::int64_t> offset,
                       std::vector<std::int64_t> count, at::Tensor values) {
  const auto bytes = static_cast<std::int64_t>(values.nbytes());
  const WriteClass kind = class_of(dataset);
  const bool is_step_row = dataset.starts_with("steps/");
  const std::int64_t step = is_step_row ? offset.at(0) + 1 : 0;
  const bool thins = kind == WriteClass::series && !policy_.never_drop;
  constexpr std::int64_t bulk_left_out = 1;
  std::unique_lock lock(mutex_);
  rethrow();
  if (thins && pressure_.skips(step, 4 * waiting_bytes_ < policy_.queue_bytes)) {
    pressure_.note(dataset, step, bytes, pressure_.stride());
    return;
  }
  std::optional<std::chrono::milliseconds> patience;
  if (thins) {
    patience = policy_.patience;
  } else if (kind == WriteClass::bulk && policy_.drop_bulk) {
    patience = std::chrono::milliseconds(0);
  }
  if (!make_room(lock, bytes, patience)) {
    if (thins) {
      pressure_.widen(step);
    }
    pressure_.note(dataset, step, bytes, thins ? pressure_.stride() : bulk_left_out);
    return;
  }
  rethrow();
  waiting_bytes_ += bytes;
  const bool wake = waiting_bytes_ >= waking_bytes;
  jobs_.push_back({dataset, std::move(offset), std::move(count), std::move(values), {}});
  lock.unlock();
  if (!is_step_row || wake) {
    changed_.notify_all();
  }
}

void WriterThread::list_dropped() {
  for (DroppedRange& range : pressure_.take()) {
    then([range = std::move(range)](CaptureWriter& file) { file.add_dropped(range); });
  }
}

void WriterThread::then(std::function<void(CaptureWriter&)> work) {
  {
    const std::lock_guard lock(mutex_);
    rethrow();
    jobs_.push_back({{}, {}, {}, {}, std::move(work)});
  }
  changed_.notify_all();
}

void WriterThread::drain() {
  std::unique_lock lock(mutex_);
  changed_.notify_all();
  changed_.wait(lock, [this] { return failure_ || (jobs_.empty() && !busy_); });
  rethrow();
}

void WriterThread::write(const Job& job) {
  if (job.work) {
    job.work(writer_);
    return;
  }
  if (policy_.before_write) {
    policy_.before_write();
  }
  const at::Tensor values = job.values.to(at::kCPU).contiguous();
  const auto size = static_cast<std::size_t>(values.numel());
  if (values.scalar_type() == at::kInt) {
    writer_.write(job.dataset, job.offset, job.count,
                  std::span(values.const_data_ptr<std::int32_t>(), size));
  } else if (values.scalar_type() == at::kLong) {
    writer_.write(job.dataset, job.offset, job.count,
                  std::span(values.const_data_ptr<std::int64_t>(), size));
  } else {
    writer_.write(job.dataset, job.offset, job.count,
                  std::span(values.const_data_ptr<float>(), size));
  }
}

void WriterThread::join_rows(Job& job) {
  if (job.work || !job.dataset.starts_with("steps/") || job.count.front() != 1) {
    return;
  }
  std::vector<at::Tensor> rows = {job.values};
  std::vector<std::int64_t> next = job.offset;
  ++next.front();
  auto left = jobs_.begin();  // in one pass: removed one by one, each would move all behind it
  auto other = left;
  for (; other != jobs_.end() && !other->work; ++other) {
    if (other->offset == next && other->count == job.count && other->dataset == job.dataset &&
        other->values.sizes() == job.values.sizes() &&
        other->values.options().dtype() == job.values.options().dtype()) {
      rows.push_back(std::move(other->values));
      ++next.front();
    } else if (left++ != other) {
      *std::prev(left) = std::move(*other);
    }
  }
  jobs_.erase(left, other);
  if (rows.size() > 1) {
    job.values = at::stack(rows);
    job.count.front() = std::ssize(rows);
  }
}

void WriterThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) {
      return;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    join_rows(job);
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      write(job);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::int64_t bytes = bytes_of(job);
    job = {};
    lock.lock();
    busy_ = false;
    waiting_bytes_ -= bytes;
    if (failure) {
      failure_ = failure;
      for (const Job& lost : jobs_) {
        waiting_bytes_ -= bytes_of(lost);
      }
      jobs_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace kvscope::detail
