// What the C++ tests are written with: guarded arrays in the memory of the backend, comparison with naive loops, a
// verdict.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "backend.h"
#include "numbers.h"

namespace jdm_fast::test {

// Counts failures; the first few are printed. main() returns `verdict()`.
class Report {
 public:
  static Report& get() {
    static Report report;
    return report;
  }

  // Names what the following checks are about; printed with a failure.
  __attribute__((format(printf, 2, 3))) void begin_case(const char* format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    case_ = text;
    ++cases_;
  }

  void fail(const std::string& message) {
    constexpr int kPrinted = 20;
    if (++failures_ <= kPrinted) std::printf("FAILED [%s] %s\n", case_.c_str(), message.c_str());
  }

  int verdict(const char* test) const {
    std::printf("%s on %s: %d cases, %d failures\n", test, backend::kName, cases_, failures_);
    return failures_ == 0 && cases_ > 0 ? 0 : 1;
  }

 private:
  std::string case_;
  int cases_ = 0;
  int failures_ = 0;
};

// An array of `dtype` in the backend's memory between two guard zones. The destructor fails the test if a kernel wrote
// into them. Outputs start as NaN, so an element that was never written shows.
class Array {
 public:
  Array(const char* name, DType dtype, int64_t count)
      : Array(name, dtype, std::vector<double>(static_cast<size_t>(count), std::nan(""))) {}

  Array(const char* name, DType dtype, const std::vector<double>& values)
      : Array(name, dtype_size(dtype), values.size()) {
    dtype_ = dtype;
    std::vector<char> host(bytes_);
    for (size_t i = 0; i < values.size(); ++i) store(host.data(), dtype, static_cast<int64_t>(i), values[i]);
    if (bytes_ > 0) backend::to_device(data(), host.data(), bytes_);
  }

  // Plain elements, e.g. bytes or int64 indices.
  template <typename T>
  static Array of(const char* name, const std::vector<T>& values) {
    Array array(name, static_cast<int64_t>(sizeof(T)), values.size());
    if (array.bytes_ > 0) backend::to_device(array.data(), values.data(), array.bytes_);
    return array;
  }

  Array(Array&& other) noexcept
      : name_(other.name_), dtype_(other.dtype_), bytes_(other.bytes_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Array& operator=(Array&&) = delete;

  ~Array() {
    if (memory_ == nullptr) return;
    std::vector<unsigned char> host(bytes_ + 2 * kGuard);
    backend::to_host(host.data(), memory_, host.size());
    for (size_t i = 0; i < host.size(); ++i) {
      const bool inside = i >= kGuard && i < kGuard + bytes_;
      if (!inside && host[i] != kPattern) {
        Report::get().fail(std::string(name_) + ": written outside its bounds, at byte " +
                           std::to_string(static_cast<int64_t>(i) - static_cast<int64_t>(kGuard)));
        break;
      }
    }
    backend::release(memory_);
  }

  void* data() const { return static_cast<char*>(memory_) + kGuard; }
  const char* name() const { return name_; }

  std::vector<double> values() const {
    const std::vector<char> host = bytes<char>();
    std::vector<double> result(bytes_ / static_cast<size_t>(dtype_size(dtype_)));
    for (size_t i = 0; i < result.size(); ++i) result[i] = load(host.data(), dtype_, static_cast<int64_t>(i));
    return result;
  }

  template <typename T>
  std::vector<T> bytes() const {
    std::vector<T> host(bytes_ / sizeof(T));
    if (bytes_ > 0) backend::to_host(host.data(), data(), bytes_);
    return host;
  }

 private:
  static constexpr size_t kGuard = 256;  // keeps the alignment of a fresh allocation
  static constexpr unsigned char kPattern = 0xa5;

  Array(const char* name, int64_t element_size, size_t count)
      : name_(name),
        bytes_(static_cast<size_t>(element_size) * count),
        memory_(backend::allocate(bytes_ + 2 * kGuard)) {
    const std::vector<unsigned char> pattern(bytes_ + 2 * kGuard, kPattern);
    backend::to_device(memory_, pattern.data(), pattern.size());
  }

  const char* name_;
  DType dtype_ = DType::kFloat32;
  size_t bytes_;
  void* memory_;
};

// Every element of `array` within `relative` * max(|expected|, scale) of `expected`.
inline void expect_close(const Array& array, const std::vector<double>& expected, double relative, double scale = 1) {
  const std::vector<double> actual = array.values();
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = relative * std::fmax(std::fabs(expected[i]), scale);
    if (std::isnan(expected[i]) ? std::isnan(actual[i]) : std::fabs(actual[i] - expected[i]) <= allowed) continue;
    char text[160];
    std::snprintf(text, sizeof(text), "%s[%zu] is %.9g, expected %.9g within %.2g", array.name(), i, actual[i],
                  expected[i], allowed);
    Report::get().fail(text);
    return;
  }
}

}  // namespace jdm_fast::test
