#include "writer_thread.h"

#include <chrono>
#include <span>
#include <utility>

#include "datasets.h"

namespace kvscope::detail {

WriterThread::WriterThread(CaptureWriter& writer) : writer_(writer), thread_([this] { run(); }) {}

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

void WriterThread::put(const std::string& dataset, std::vector<std::int64_t> offset,
                       std::vector<std::int64_t> count, at::Tensor values) {
  const auto bytes = static_cast<std::int64_t>(values.nbytes());
  std::unique_lock lock(mutex_);
  if (waiting_bytes_ > 0 && waiting_bytes_ + bytes > queue_limit_bytes && !failure_) {
    const auto start = std::chrono::steady_clock::now();
    changed_.wait(lock, [&] {
      return failure_ || waiting_bytes_ == 0 || waiting_bytes_ + bytes <= queue_limit_bytes;
    });
    stall_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  }
  rethrow();
  waiting_bytes_ += bytes;
  jobs_.push_back({dataset, std::move(offset), std::move(count), std::move(values), {}});
  lock.unlock();
  changed_.notify_all();
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
  changed_.wait(lock, [this] { return failure_ || (jobs_.empty() && !busy_); });
  rethrow();
}

void WriterThread::write(const Job& job) {
  if (job.work) {
    job.work(writer_);
    return;
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

void WriterThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) {
      return;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
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
