#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "greedy_diversity_impl.h"
#include "tile/tasks.h"

namespace kvscope::detail {
namespace {

using Options = GreedyDiversityOptions;
constexpr float infinity = std::numeric_limits<float>::infinity();
/// Rows compared with one tile at once: bounds the scratch.
constexpr int chunk = 64;

/// `row` divided by its length.
void normalise(const float* row, int dim, float* out) {
  double square = 0;
  for (int channel = 0; channel < dim; ++channel) {
    square += static_cast<double>(row[channel]) * static_cast<double>(row[channel]);
  }
  const double length = std::max(std::sqrt(square), 1e-12);
  for (int channel = 0; channel < dim; ++channel) {
    out[channel] = static_cast<float>(static_cast<double>(row[channel]) / length);
  }
}

/// The candidates of one unit, best score first, in tiles of packed unit rows.
class Candidates {
 public:
  explicit Candidates(const DiversityUnit& unit)
      : dim_(unit.dim), lanes_(tile::functions().tile_keys), order_(size(unit.candidates)) {
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [&](int a, int b) {
      return unit.scores[a] > unit.scores[b] || (unit.scores[a] == unit.scores[b] && a < b);
    });
    tiles_ = (unit.candidates + lanes_ - 1) / lanes_;
    unit_rows_.resize(size(unit.candidates) * size(dim_));
    score_.assign(size(tiles_) * size(lanes_), -infinity);
    for (int place = 0; place < unit.candidates; ++place) {
      const int candidate = order_[size(place)];
      normalise(unit.rows + std::ptrdiff_t{candidate} * dim_, dim_, unit_row(place));
      score_[size(place)] = unit.scores[candidate];
    }
    packed_.resize(size(tiles_) * size(lanes_) * size(dim_));
    tile::functions().pack({unit_rows_.data(), dim_, unit.candidates, dim_, 1.0F, packed_.data()});
  }

  int tiles() const { return tiles_; }
  int lanes() const { return lanes_; }
  int count() const { return static_cast<int>(order_.size()); }
  int index(int place) const { return order_[size(place)]; }
  float score(int place) const { return score_[size(place)]; }
  float* unit_row(int place) { return unit_rows_.data() + std::ptrdiff_t{place} * dim_; }

  /// Cosines of `count` unit rows to the candidates of one tile: out [count][lanes].
  void cosines(int tile, const float* rows, int count, float* out) const {
    tile::functions().dots(
        {packed_.data() + std::ptrdiff_t{tile} * lanes_ * dim_, rows, dim_, count, dim_, out});
  }

  static std::size_t size(int value) { return static_cast<std::size_t>(value); }

 private:
  int dim_;
  int lanes_;
  int tiles_ = 0;
  std::vector<int> order_;        ///< candidate at each place
  std::vector<float> unit_rows_;  ///< [places, dim]
  std::vector<float> packed_;
  std::vector<float> score_;  ///< [places], -inf beyond the last
};

/// score - lambda * redundancy. A tile is brought up to date only when its bound says that it could
/// hold the next pick; where redundancy never falls, an old objective is such a bound.
class Mmr {
 public:
  Mmr(const DiversityUnit& unit, const Options& options)
      : unit_(unit),
        options_(options),
        lambda_(static_cast<float>(options.lambda)),
        monotone_(options.aggregate == Options::Aggregate::max ||
                  (options.aggregate == Options::Aggregate::sum && options.clip_at_zero)),
        all_(unit),
        picked_rows_((size(unit.members) + size(unit.picks)) * size(unit.dim)),
        redundancy_(size(all_.tiles()) * size(all_.lanes()), 0.0F),
        gone_(redundancy_.size(), 0),
        seen_(size(all_.tiles()), 0),
        bound_(size(all_.tiles()), infinity),
        best_(size(all_.tiles()), 0),
        cosine_(size(chunk) * size(all_.lanes())) {
    for (int member = 0; member < unit.members; ++member) {
      normalise(unit.present + std::ptrdiff_t{member} * unit.dim, unit.dim, picked_row(member));
    }
    members_ = unit.members;
  }

  void run() {
    for (int pick = 0; pick < unit_.picks; ++pick) {
      const int place = next();
      unit_.out[pick] = all_.index(place);
      gone_[size(place)] = 1;
      std::copy_n(all_.unit_row(place), unit_.dim, picked_row(members_));
      ++members_;
      if (monotone_) {
        // The first pick may lower an objective's redundancy below 0; later ones only raise it.
        const float gain = members_ == 1 && !options_.clip_at_zero ? lambda_ * 1.0001F : 0.0F;
        for (float& bound : bound_) {
          bound += gain;
        }
      } else {
        std::fill(bound_.begin(), bound_.end(), infinity);
      }
      judge(place / all_.lanes());
    }
  }

 private:
  static std::size_t size(int value) { return static_cast<std::size_t>(value); }
  float* picked_row(int member) { return picked_rows_.data() + std::ptrdiff_t{member} * unit_.dim; }

  /// The place of largest objective, of equal ones that of the lowest candidate.
  int next() {
    while (true) {
      const float top = *std::max_element(bound_.begin(), bound_.end());
      bool fresh = true;
      int found = -1;
      for (int tile = 0; tile < all_.tiles(); ++tile) {
        if (bound_[size(tile)] != top) {
          continue;
        }
        if (!up_to_date(tile)) {
          judge(tile);
          fresh = false;
        } else if (found < 0 || all_.index(best_[size(tile)]) < all_.index(found)) {
          found = best_[size(tile)];
        }
      }
      if (fresh) {
        return found;
      }
    }
  }

  bool up_to_date(int tile) const {
    return seen_[size(tile)] == members_ && bound_[size(tile)] != infinity;
  }

  /// Compares a tile with the picks it has not seen, and finds its best candidate.
  void judge(int tile) {
    int& seen = seen_[size(tile)];
    float* redundancy = redundancy_.data() + std::ptrdiff_t{tile} * all_.lanes();
    while (seen < members_) {
      const int count = std::min(chunk, members_ - seen);
      all_.cosines(tile, picked_row(seen), count, cosine_.data());
      for (int row = 0; row < count; ++row, ++seen) {
        absorb(cosine_.data() + std::ptrdiff_t{row} * all_.lanes(), seen == 0, redundancy);
      }
    }
    const bool mean = options_.aggregate == Options::Aggregate::mean && members_ > 0;
    float top = -infinity;
    for (int lane = 0; lane < all_.lanes(); ++lane) {
      const int place = tile * all_.lanes() + lane;
      if (place >= all_.count() || gone_[size(place)] != 0) {
        continue;
      }
      const float red = mean ? redundancy[lane] / static_cast<float>(members_) : redundancy[lane];
      const float objective = all_.score(place) - lambda_ * red;
      if (objective > top ||
          (objective == top && all_.index(place) < all_.index(best_[size(tile)]))) {
        top = objective;
        best_[size(tile)] = place;
      }
    }
    bound_[size(tile)] = top;
  }

  /// Adds one pick's cosines to the redundancies of a tile.
  void absorb(const float* cosine, bool first, float* redundancy) const {
    for (int lane = 0; lane < all_.lanes(); ++lane) {
      const float here = options_.clip_at_zero ? std::max(cosine[lane], 0.0F) : cosine[lane];
      if (options_.aggregate != Options::Aggregate::max) {
        redundancy[lane] += here;
      } else {
        redundancy[lane] = first ? here : std::max(redundancy[lane], here);
      }
    }
  }

  const DiversityUnit& unit_;
  const Options& options_;
  float lambda_;
  bool monotone_;
  Candidates all_;
  std::vector<float> picked_rows_;  ///< [members, dim] unit rows: present ones, then picks
  std::vector<float> redundancy_;   ///< [places] maximum or sum
  std::vector<char> gone_;          ///< [places] picked
  std::vector<int> seen_;           ///< [tiles] members already compared with
  std::vector<float> bound_;        ///< [tiles] no candidate's objective is above
  std::vector<int> best_;           ///< [tiles] place
  std::vector<float> cosine_;
  int members_ = 0;
};

/// score + lambda * gain in facility location. Gains only fall as the set grows, so an old one is a
/// bound.
class FacilityLocation {
 public:
  FacilityLocation(const DiversityUnit& unit, const Options& options)
      : unit_(unit),
        lambda_(options.lambda),
        all_(unit),
        covered_(size(all_.tiles()) * size(all_.lanes()), 0.0F),
        cosine_(size(all_.lanes())),
        bound_(size(all_.count()), std::numeric_limits<double>::infinity()),
        stamp_(size(all_.count()), -1) {
    std::vector<float> row(size(unit.dim));
    for (int member = 0; member < unit.members; ++member) {
      normalise(unit.present + std::ptrdiff_t{member} * unit.dim, unit.dim, row.data());
      cover(row.data());
    }
  }

  void run() {
    for (int pick = 0; pick < unit_.picks; ++pick) {
      const int place = next(pick);
      unit_.out[pick] = all_.index(place);
      bound_[size(place)] = -std::numeric_limits<double>::infinity();
      stamp_[size(place)] = unit_.picks;
      cover(all_.unit_row(place));
    }
  }

 private:
  static std::size_t size(int value) { return static_cast<std::size_t>(value); }

  int next(int pick) {
    while (true) {
      int top = 0;
      for (int place = 1; place < all_.count(); ++place) {
        const bool tie = bound_[size(place)] == bound_[size(top)];
        if (bound_[size(place)] > bound_[size(top)] || (tie && before(place, top, pick))) {
          top = place;
        }
      }
      if (stamp_[size(top)] >= pick) {
        return top;
      }
      bound_[size(top)] = static_cast<double>(all_.score(top)) + lambda_ * gain(top);
      stamp_[size(top)] = pick;
    }
  }

  /// Of equal bounds, those that are out of date come first, then the lower candidate.
  bool before(int place, int other, int pick) const {
    const bool old = stamp_[size(place)] < pick;
    const bool other_old = stamp_[size(other)] < pick;
    return old != other_old ? old : all_.index(place) < all_.index(other);
  }

  /// What picking the candidate at `place` adds to the cover.
  double gain(int place) {
    double sum = 0;
    for (int tile = 0; tile < all_.tiles(); ++tile) {
      all_.cosines(tile, all_.unit_row(place), 1, cosine_.data());
      const float* covered = covered_.data() + std::ptrdiff_t{tile} * all_.lanes();
      float part = 0;
      for (int lane = 0; lane < all_.lanes(); ++lane) {
        part += std::max(std::max(cosine_[size(lane)], 0.0F) - covered[lane], 0.0F);
      }
      sum += static_cast<double>(part);
    }
    return sum;
  }

  void cover(const float* row) {
    for (int tile = 0; tile < all_.tiles(); ++tile) {
      all_.cosines(tile, row, 1, cosine_.data());
      float* covered = covered_.data() + std::ptrdiff_t{tile} * all_.lanes();
      for (int lane = 0; lane < all_.lanes(); ++lane) {
        covered[lane] = std::max(covered[lane], cosine_[size(lane)]);
      }
    }
  }

  const DiversityUnit& unit_;
  double lambda_;
  Candidates all_;
  std::vector<float> covered_;  ///< [places] cosine to the nearest member, at least 0
  std::vector<float> cosine_;
  std::vector<double> bound_;  ///< [places]
  std::vector<int> stamp_;     ///< [places] the pick the bound was computed for
};

}  // namespace

void greedy_diversity_cpu(const DiversityUnit& unit, const Options& options) {
  if (unit.picks == 0) {
    return;
  }
  if (options.objective == Options::Objective::fl) {
    FacilityLocation(unit, options).run();
  } else {
    Mmr(unit, options).run();
  }
}

}  // namespace kvscope::detail
