// A rate limiter for merges alone. RocksDB's own counts flushes too, which writers wait for, and
// its C API cannot change the rate of an open database.

#include <cstdint>
#include <memory>

#include "rocksdb/c.h"
#include "rocksdb/rate_limiter.h"

namespace {

using rocksdb::Env;
using rocksdb::RateLimiter;
using rocksdb::Statistics;

// Tokens come this often: bursts stay far below what a disk takes in at once.
constexpr int64_t kRefillMicros = 10'000;

class MergeLimiter final : public RateLimiter {
 public:
  explicit MergeLimiter(int64_t rate)
      : limiter_(rocksdb::NewGenericRateLimiter(rate, kRefillMicros)) {}

  // Merges have the lowest priority, until writes are held up for them: then RocksDB raises it.
  void Request(const int64_t bytes, const Env::IOPriority priority,
               Statistics* statistics) override {
    if (priority == Env::IO_LOW) {
      limiter_->Request(bytes, priority, statistics);
    }
  }

  void SetBytesPerSecond(int64_t rate) override { limiter_->SetBytesPerSecond(rate); }
  int64_t GetBytesPerSecond() const override { return limiter_->GetBytesPerSecond(); }
  int64_t GetSingleBurstBytes() const override { return limiter_->GetSingleBurstBytes(); }
  int64_t GetTotalBytesThrough(const Env::IOPriority priority) const override {
    return limiter_->GetTotalBytesThrough(priority);
  }
  int64_t GetTotalRequests(const Env::IOPriority priority) const override {
    return limiter_->GetTotalRequests(priority);
  }

 private:
  const std::unique_ptr<RateLimiter> limiter_;
};

}  // namespace

// What the C API means by `rocksdb_ratelimiter_t`: a shared limiter, and nothing else.
struct rocksdb_ratelimiter_t {
  std::shared_ptr<RateLimiter> rep;
};

extern "C" {

rocksdb_ratelimiter_t* trilith_merge_limiter_new(int64_t rate) {
  return new rocksdb_ratelimiter_t{std::make_shared<MergeLimiter>(rate)};
}

void trilith_merge_limiter_set(rocksdb_ratelimiter_t* limiter, int64_t rate) {
  limiter->rep->SetBytesPerSecond(rate);
}

int64_t trilith_merge_limiter_through(const rocksdb_ratelimiter_t* limiter) {
  return limiter->rep->GetTotalBytesThrough(Env::IO_LOW);
}

}  // extern "C"
