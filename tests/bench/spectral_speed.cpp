// Speed and memory of spectra; tests/bench/spectral.py runs it beside other libraries. One JSON
// line a cell on stdout.
//
// usage: spectral_speed model MODEL.gguf ROUNDS     layer spectra of Q, K, V; everything; products
//        spectral_speed matrix N ROUNDS             one N x N matrix, then two side by side
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "gram.h"
#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/spectral/analyze.h"
#include "lapack.h"
#include "products.h"
#include "random.h"

namespace kvscope {
namespace {

using spectral::AlignedDoubles;
using spectral::cells;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median_of(int rounds, const std::function<void()>& work) {
  std::vector<double> all;
  for (int i = 0; i < rounds; ++i) {
    all.push_back(seconds_of(work));
  }
  std::nth_element(all.begin(), all.begin() + rounds / 2, all.end());
  return all[static_cast<std::size_t>(rounds / 2)];
}

void report(const nlohmann::json& line) {
  std::cout << line.dump() << std::endl;
}

/// A field of /proc/self/status in bytes.
double memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) {
      return std::atof(line.c_str() + field.size() + 1) * 1024;
    }
  }
  return 0;
}

void run_model(const std::string& path, int rounds) {
  const auto model = ModelFile::open(path);
  const ModelShape& shape = model->config().shape;
  SpectralOptions options;
  options.threads = static_cast<int>(std::thread::hardware_concurrency());
  options.fits = true;
  SpectralOptions layers_only = options;
  layers_only.projections = {"q", "k", "v"};
  layers_only.heads = layers_only.products = false;
  report({{"name", "qkv"},
          {"matrices", 3 * shape.layers},
          {"threads", options.threads},
          {"seconds", median_of(rounds, [&] { analyze_weights(*model, layers_only); })}});
  layers_only.threads = 1;
  report({{"name", "qkv_one_thread"},
          {"matrices", 3 * shape.layers},
          {"seconds", median_of(rounds, [&] { analyze_weights(*model, layers_only); })}});
  report({{"name", "everything"},
          {"seconds", median_of(rounds, [&] { analyze_weights(*model, options); })}});
  const spectral::SingleThreaded single;
  report({{"name", "products"},
          {"heads", shape.layers * shape.query_heads},
          {"seconds", median_of(rounds, [&] {
             for (int layer = 0; layer < shape.layers; ++layer) {
               spectral::layer_products(*model, layer, options);
             }
           })}});
  // One head the dense way: hidden x hidden, then its singular values.
  const int d = shape.hidden_dim;
  spectral::Random random(1);
  AlignedDoubles q(cells(shape.head_dim, d));
  std::generate(q.data(), q.data() + q.size(), [&] { return random.normal(); });
  report({{"name", "dense_head"}, {"seconds", median_of(rounds, [&] {
                                     AlignedDoubles dense(cells(d, d));
                                     spectral::multiply_add({true, false, d, d, shape.head_dim,
                                                             q.data(), shape.head_dim, q.data(),
                                                             shape.head_dim, dense.data(), d});
                                     spectral::singular_values(dense, d, d);
                                   })}});
}

/// A square matrix of float32 noise, as a view of its own numbers.
class Noise {
 public:
  Noise(int n, std::uint64_t seed) : values_(cells(n, n)), n_(n) {
    spectral::Random random(seed);
    for (float& value : values_) {
      value = static_cast<float>(random.uniform() - 0.5);
    }
  }
  spectral::WeightView view() const {
    spectral::WeightView view;
    view.data = values_.data();
    view.rows = view.columns = n_;
    view.stride = n_;
    return view;
  }

 private:
  std::vector<float> values_;
  int n_;
};

void spectrum(const spectral::WeightView& view) {
  const spectral::SingleThreaded single;
  spectral::cpu_solver().values(spectral::gram(view, spectral::GramSide::rows), view.rows);
}

void run_matrix(int n, int rounds) {
  const spectral::SingleThreaded single;
  const double size = static_cast<double>(cells(n, n)) * sizeof(double);
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts here
  const double before = memory("VmRSS");
  const Noise first(n, 1);
  spectrum(first.view());
  report({{"name", "memory"},
          {"bytes", memory("VmHWM") - before},
          {"share", (memory("VmHWM") - before) / size}});
  const double flops = static_cast<double>(n) * n * n;  // of one triangle
  const double gram =
      median_of(rounds, [&] { spectral::gram(first.view(), spectral::GramSide::rows); });
  constexpr int m = 1536;
  AlignedDoubles a(cells(m, m));
  AlignedDoubles c(cells(m, m));
  std::fill(a.data(), a.data() + a.size(), 0.5);
  const double gemm = median_of(rounds, [&] {
    spectral::multiply_add({false, false, m, m, m, a.data(), m, a.data(), m, c.data(), m});
  });
  const double rate = 2.0 * m * m * m / gemm;
  const double one = median_of(rounds, [&] { spectrum(first.view()); });
  report({{"name", "one"},
          {"n", n},
          {"seconds", one},
          {"gram_seconds", gram},
          {"gram_rate", flops / gram},
          {"gemm_rate", rate},
          {"gram_share", flops / gram / rate}});
  const Noise second(n, 2);
  const double both = median_of(rounds, [&] {
    std::thread other([&] { spectrum(second.view()); });
    spectrum(first.view());
    other.join();
  });
  report({{"name", "two"}, {"n", n}, {"seconds", both}, {"over_one", both / one}});
}

int run(int argc, char** argv) {
  const std::string mode = argc == 4 ? argv[1] : "";
  if (mode == "model") {
    run_model(argv[2], std::atoi(argv[3]));
  } else if (mode == "matrix") {
    run_matrix(std::atoi(argv[2]), std::atoi(argv[3]));
  } else {
    std::cerr << "usage: spectral_speed model MODEL.gguf ROUNDS | matrix N ROUNDS\n";
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    return kvscope::run(argc, argv);
  } catch (const kvscope::Error& error) {
    std::cerr << "error: " << error.message() << "\n";
    return 1;
  }
}
