/// The rules that every decision keeps, over every preset and piece of the registry.
/// registry.
#include <ATen/TensorOperators.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "every_text.h"
#include "kvscope/kernels/apply_decision.h"
#include "method_support.h"
#include "registry/method_pieces.h"

namespace kvscope::testing {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

const std::vector<FakeSizes> shapes{{2, 2, 2, 37, 8, 16}, {2, 6, 2, 41, 4, 8}, {1, 7, 1, 29, 4, 8}};

/// A fraction, slots, bytes of ten slots in each layer and KV head, everything, and one slot.
std::vector<std::string> budgets(const FakeSizes& sizes) {
  const int bytes = 2 * 4 * sizes.head_dim * sizes.layers * sizes.kv_heads * 10;
  return {"0.4", "11", std::to_string(bytes) + "B", "1.0", "1"};
}

bool is_threshold(const Method& method) {
  return !method.pieces().parts.selector->fills_grant();
}

/// A method that refuses these very scores, by design and in words: pool:normalise and negative
/// ones.
bool refuses_scores(const Error& error) {
  return error.message().find("negative score") != std::string::npos;
}

/// The decision, or nothing if the budget does not cover what the method protects.
std::vector<Decision> try_decide(FakeRun& run, const Method& method, const std::string& keep,
                                 const DecideOptions& options = everything_stored) {
  std::vector<Decision> result;
  run.layers_asked = 0;
  try {
    result.push_back(decide(run, method, Budget::parse(keep), options));
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::usage)) << error.what();
    if (!refuses_scores(error)) {
      EXPECT_THAT(error.message(), ::testing::HasSubstr("protects"));
      EXPECT_EQ(run.layers_asked, 0) << "refused only after work was done";
    }
    EXPECT_FALSE(error.fix().empty());
  }
  return result;
}

/// Calls body(run, method) for each shape and method, under a trace that names both.
template <typename Body>
void for_every_method(const Body& body) {
  for (const FakeSizes& sizes : shapes) {
    for (const std::string& text : every_text(sizes)) {
      SCOPED_TRACE(text + " on " + std::to_string(sizes.query_heads) + "/" +
                   std::to_string(sizes.kv_heads) + " heads");
      FakeRun run = generated_run(sizes, 17);
      body(run, parse_methods(text).front());
    }
  }
}

bool same(const std::vector<float>& some, const std::vector<float>& others) {
  return some.size() == others.size() &&
         (some.empty() ||
          std::memcmp(some.data(), others.data(), some.size() * sizeof(float)) == 0);
}

/// Same fates, reasons, edges and scores, bit for bit.
void expect_same(const Decision& some, const Decision& other) {
  ASSERT_EQ(some.layers.size(), other.layers.size());
  for (std::size_t layer = 0; layer < some.layers.size(); ++layer) {
    const LayerDecision& a = some.layers[layer];
    const LayerDecision& b = other.layers[layer];
    EXPECT_EQ(a.fate, b.fate);
    EXPECT_EQ(a.reason, b.reason);
    EXPECT_EQ(a.granted, b.granted);
    EXPECT_TRUE(same(a.scores, b.scores));
    EXPECT_TRUE(same(a.terms, b.terms));
    ASSERT_EQ(a.edges.size(), b.edges.size());
    for (std::size_t edge = 0; edge < a.edges.size(); ++edge) {
      EXPECT_EQ(a.edges[edge].source, b.edges[edge].source);
      EXPECT_EQ(a.edges[edge].target, b.edges[edge].target);
      EXPECT_EQ(a.edges[edge].value_weight, b.edges[edge].value_weight);
    }
  }
}

LayerCache cache_of(FakeRun& run, int layer) {
  return {run.tables(layer).keys, run.tables(layer).values,
          SlotTable::full(run.sizes().kv_heads, run.sizes().tokens)};
}

TEST(EveryMethod, KeepsTheRules) {
  for_every_method([](FakeRun& run, const Method& method) {
    for (const std::string& keep : budgets(run.sizes())) {
      for (const Decision& decision : try_decide(run, method, keep)) {
        SCOPED_TRACE(keep);
        EXPECT_TRUE(violations(decision).empty()) << violations(decision).front();
        EXPECT_EQ(decision.method, method.text());
        if (!decision.by_method) {
          EXPECT_EQ(decision.granted_slots(), decision.budget_slots);
        }
        for (const LayerDecision& layer : decision.layers) {
          for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
            const int granted = layer.granted[static_cast<std::size_t>(kv_head)];
            EXPECT_EQ(layer.kept(kv_head), std::min(granted, layer.tokens));
          }
          for (const float term : layer.terms) {
            EXPECT_FALSE(std::isinf(term));
          }
        }
        for (int layer = 0; layer < run.sizes().layers; ++layer) {
          apply_decision(cache_of(run, layer), decision.layers[static_cast<std::size_t>(layer)],
                         decision.form);
        }
      }
    }
  });
}

TEST(EveryMethod, ProtectedTokensHoldTheirSlots) {
  for_every_method([](FakeRun& run, const Method& method) {
    for (const Decision& decision : try_decide(run, method, "20")) {
      const int tokens = run.sizes().tokens;
      const Protection protection =
          method.pieces().parts.scorer->protect_in_run({tokens, tokens, 20});
      for (const LayerDecision& layer : decision.layers) {
        for (int token = 0; token < layer.tokens; ++token) {
          for (int kv_head = 0; protection.covers(token) && kv_head < layer.kv_heads; ++kv_head) {
            EXPECT_EQ(layer.removed_at[layer.cell(kv_head, token)], alive);
            EXPECT_EQ(layer.reason[layer.cell(kv_head, token)],
                      protection.reason[static_cast<std::size_t>(token)]);
          }
        }
      }
    }
  });
}

TEST(EveryMethod, ABudgetOfEverythingGivesTheInputBack) {
  for_every_method([](FakeRun& run, const Method& method) {
    for (const std::string keep : {"1.0", "1000", "1GiB"}) {
      for (const Decision& decision : try_decide(run, method, keep)) {
        for (int layer = 0; !is_threshold(method) && layer < run.sizes().layers; ++layer) {
          const LayerCache cache = cache_of(run, layer);
          const LayerDecision& here = decision.layers[static_cast<std::size_t>(layer)];
          const LayerCache after = apply_decision(cache, here, decision.form);
          ASSERT_EQ(after.slots.token, cache.slots.token);
          EXPECT_EQ(std::memcmp(after.keys.const_data_ptr(), cache.keys.const_data_ptr(),
                                cache.keys.nbytes()),
                    0);
          if (decision.form.value_bits == 0) {
            EXPECT_EQ(std::memcmp(after.values.const_data_ptr(), cache.values.const_data_ptr(),
                                  cache.values.nbytes()),
                      0);
          } else {  // within half a step of 4 bits
            const at::Tensor moved = (after.values - cache.values).abs();
            const at::Tensor step = cache.values.abs().amax({-1}, true) / 7;
            EXPECT_TRUE((moved <= step * 0.5001).all().item<bool>());
          }
          EXPECT_TRUE(here.edges.empty());
        }
      }
    }
  });
}

TEST(EveryMethod, MoreBudgetNeverDropsAKeptToken) {
  for_every_method([](FakeRun& run, const Method& method) {
    std::vector<Decision> before;
    const bool one_score = method.pieces().parts.selector->reads() == Rows::none &&
                           !method.pieces().parts.scorer->settles() &&
                           !method.pieces().parts.scorer->reads_budget();
    for (int slots = 6; slots <= 24 && one_score && !method.by_method(); slots += 2) {
      std::vector<Decision> now = try_decide(run, method, std::to_string(slots));
      for (std::size_t at = 0; !before.empty() && !now.empty() && at < now[0].layers.size(); ++at) {
        const LayerDecision& less = before[0].layers[at];
        const LayerDecision& more = now[0].layers[at];
        for (std::size_t cell = 0; cell < less.fate.size(); ++cell) {
          EXPECT_FALSE(less.removed_at[cell] == alive && more.removed_at[cell] != alive)
              << "cell " << cell << " of layer " << at << " at " << slots << " slots";
        }
      }
      before = std::move(now);
    }
  });
}

/// Tensors of one head order in another.
at::Tensor permuted(const at::Tensor& tensor, const std::vector<int>& order) {
  return at::index_select(tensor, 0, at::tensor(order, at::kInt).to(at::kLong)).contiguous();
}

bool ties_between_heads(const LayerDecision& layer) {
  for (int token = 0; token < layer.tokens; ++token) {
    for (int other = 0; other < layer.tokens; ++other) {
      if (layer.scores[layer.cell(0, token)] ==
          layer.scores[layer.cell(layer.kv_heads - 1, other)]) {
        return true;
      }
    }
  }
  return false;
}

TEST(EveryMethod, PermutingHeadsPermutesTheAnswer) {
  int compared = 0;
  for_every_method([&](FakeRun& run, const Method& method) {
    const FakeSizes& sizes = run.sizes();
    if (sizes.kv_heads == 1 || method.preset() == "random") {
      return;  // random draws by the head's place, whatever lies there
    }
    const int group = sizes.query_heads / sizes.kv_heads;
    std::vector<int> kv_order;
    std::vector<int> query_order;
    for (int kv_head = sizes.kv_heads - 1; kv_head >= 0; --kv_head) {
      kv_order.push_back(kv_head);
      for (int member = 0; member < group; ++member) {
        query_order.push_back(kv_head * group + member);
      }
    }
    FakeRun turned = run;
    for (int layer = 0; layer < sizes.layers; ++layer) {
      FakeLayer& tables = turned.tables(layer);
      tables.keys = permuted(tables.keys, kv_order);
      tables.values = permuted(tables.values, kv_order);
      tables.queries = permuted(tables.queries, query_order);
      tables.output_weights = permuted(tables.output_weights, query_order);
    }
    const std::vector<Decision> before = try_decide(run, method, "12");
    const std::vector<Decision> after = try_decide(turned, method, "12");
    ASSERT_EQ(before.size(), after.size());
    const bool pooled = method.pieces().parts.allocator->scope() != Allocator::Scope::head;
    for (std::size_t layer = 0; !before.empty() && layer < before[0].layers.size(); ++layer) {
      const LayerDecision& a = before[0].layers[layer];
      const LayerDecision& b = after[0].layers[layer];
      if (pooled && ties_between_heads(a)) {
        continue;  // equal scores: the lower head wins, by rule
      }
      ++compared;
      for (int kv_head = 0; kv_head < sizes.kv_heads; ++kv_head) {
        const int other = kv_order[static_cast<std::size_t>(kv_head)];
        for (int token = 0; token < sizes.tokens; ++token) {
          EXPECT_EQ(a.fate[a.cell(other, token)], b.fate[b.cell(kv_head, token)]) << token;
        }
      }
    }
  });
  EXPECT_GT(compared, 200);
}

TEST(EveryMethod, ThreadsChangeNothing) {
  for_every_method([](FakeRun& run, const Method& method) {
    const std::vector<Decision> one = try_decide(run, method, "12", {true, true, 1});
    for (const int threads : {2, 3}) {
      const std::vector<Decision> many = try_decide(run, method, "12", {true, true, threads});
      ASSERT_EQ(one.size(), many.size());
      if (!one.empty()) {
        expect_same(one[0], many[0]);
      }
    }
  });
}

TEST(EveryMethod, SlotsBeyondTheLiveOnesAreNeverRead) {
  for_every_method([](FakeRun& run, const Method& method) {
    const std::vector<Decision> plain = try_decide(run, method, "12");
    run.padding = 5;
    const std::vector<Decision> padded = try_decide(run, method, "12");
    ASSERT_EQ(plain.size(), padded.size());
    if (!plain.empty()) {
      expect_same(plain[0], padded[0]);
    }
  });
}

/// A NaN in what a method reads is an error that says where; what it does not read is no matter.
TEST(EveryMethod, RefusesNaN) {
  int refused = 0;
  for_every_method([&](FakeRun& run, const Method& method) {
    const std::vector<Decision> clean = try_decide(run, method, "12");
    run.tables(0).queries.select(1, run.sizes().tokens - 1).fill_(nan);
    run.tables(0).keys.select(1, 9).fill_(nan);
    run.tables(0).values.select(1, 9).fill_(nan);
    try {
      const Decision decision = decide(run, method, Budget::parse("12"), everything_stored);
      ASSERT_EQ(clean.size(), 1U);
      expect_same(clean[0], decision);
    } catch (const Error& error) {
      if (!clean.empty()) {
        ++refused;
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::failed));
        EXPECT_THAT(error.message(), ::testing::HasSubstr("NaN"));
        EXPECT_THAT(error.where(), ::testing::HasSubstr("layer 0"));
        EXPECT_FALSE(error.fix().empty());
      }
    }
  });
  EXPECT_GT(refused, 100);
}

TEST(EveryMethod, ScoresAreTheirTerms) {
  for_every_method([](FakeRun& run, const Method& method) {
    const PieceInfo& info = method.pieces().arguments.front().info();
    for (const Decision& decision : try_decide(run, method, "12")) {
      ASSERT_EQ(decision.term_names.size(), info.terms.size());
      for (const LayerDecision& layer : decision.layers) {
        const std::size_t cells = layer.fate.size();
        ASSERT_EQ(layer.terms.size(), info.terms.size() * cells);
        for (std::size_t cell = 0; !info.terms.empty() && cell < cells; ++cell) {
          std::vector<double> terms;
          double size = 0;
          for (std::size_t term = 0; term < info.terms.size(); ++term) {
            terms.push_back(layer.terms[term * cells + cell]);
            size = std::max(size, std::abs(terms.back()));
          }
          if (!std::isnan(layer.scores[cell])) {
            EXPECT_NEAR(combined(info, terms), layer.scores[cell], 1e-5 * std::max(size, 0.01));
          }
        }
      }
    }
  });
}

TEST(EveryMethod, CanonicalTextParsesBackToTheSameMethod) {
  for (const std::string& text : every_text(shapes[1])) {
    const std::vector<Method> methods = parse_methods(text);
    ASSERT_EQ(methods.size(), 1U) << text;
    const std::string canonical = methods[0].text();
    EXPECT_EQ(parse_methods(canonical).front().text(), canonical) << text;
    EXPECT_FALSE(methods[0].descriptor_json().empty());
  }
}

TEST(EveryMethod, EveryPieceOfTheRegistryIsTried) {
  const std::vector<std::string> live = live_only();
  for (const PieceInfo& info : registry()) {
    bool tried = std::find(live.begin(), live.end(), info.name) != live.end();
    for (const std::string& text : every_text(shapes[1])) {
      tried = tried || (" " + text + " ").find(" " + info.name + ":") != std::string::npos ||
              (" " + text + " ").find(" " + info.name + " ") != std::string::npos;
    }
    EXPECT_TRUE(tried) << info.name;
    EXPECT_FALSE(info.summary.empty()) << info.name;
    const bool scores =
        info.kind == PieceInfo::Kind::scorer || info.kind == PieceInfo::Kind::preset;
    EXPECT_TRUE(!scores || info.combine.empty() == info.terms.empty()) << info.name;
    for (const ParameterInfo& parameter : info.parameters) {
      EXPECT_FALSE(parameter.help.empty()) << info.name << ":" << parameter.name;
      EXPECT_TRUE(!parameter.range.empty() || parameter.type == ParameterInfo::Type::text)
          << info.name << ":" << parameter.name;
    }
  }
}

TEST(EveryMethod, ManyAtOnceDecideAsEachAlone) {
  FakeRun run = generated_run(shapes[1], 17);
  std::vector<Method> methods;
  for (const std::string& text : every_text(shapes[1])) {
    Method method = std::move(parse_methods(text).front());
    if (!try_decide(run, method, "12").empty()) {
      methods.push_back(std::move(method));
    }
  }
  run.layers_asked = 0;
  const std::vector<Decision> all =
      decide_all(run, methods, {Budget::parse("12")}, everything_stored);
  EXPECT_LE(run.layers_asked,
            2 * run.sizes().layers);  // once, and once more for model-wide mergers
  ASSERT_EQ(all.size(), methods.size());
  for (std::size_t at = 0; at < all.size(); ++at) {
    SCOPED_TRACE(methods[at].text());
    expect_same(all[at], try_decide(run, methods[at], "12").front());
  }
}

}  // namespace
}  // namespace kvscope::testing
