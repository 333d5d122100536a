#pragma once

#include <future>
#include <map>
#include <string>

#include "backend.h"
#include "kvscope/core/attention_tile.h"
#include "kvscope/core/error.h"
#include "kvscope/scene/agreement.h"
#include "kvscope/scene/head_map.h"
#include "kvscope/scene/histogram.h"
#include "kvscope/scene/inspector.h"
#include "kvscope/scene/merges.h"
#include "kvscope/scene/moment.h"
#include "kvscope/scene/raster.h"
#include "kvscope/scene/search.h"
#include "kvscope/scene/spectrum_plots.h"
#include "kvscope/scene/token_class.h"
#include "kvscope/scene/token_strip.h"

namespace kvscope::gui {

/// A value made anew only when what it depends on, written as a key, changes.
template <typename Value>
class Memo {
 public:
  template <typename Make>
  const Value& get(const std::string& key, Make make) {
    if (!known_ || key != key_) {
      value_ = make();
      key_ = key;
      known_ = true;
    }
    return value_;
  }

 private:
  bool known_ = false;
  std::string key_;
  Value value_{};
};

/// A pyramid and its picture.
struct CachedMap {
  std::string pyramid_key;
  std::string picture_key;
  ColumnPyramid shares;
  LetterPyramid letters;
  std::string missing;  ///< why there is nothing to show
  ImTextureID texture = 0;
};

struct Timeline {
  std::vector<RunMoment> moments;
  std::vector<MomentCounts> counts;
};

/// Attention of one query head, read and computed beside the frames.
struct AttentionCache {
  int member = 0;  ///< query head within the KV head's group
  std::string asked;
  std::string shown;
  std::string picture_key;
  std::string missing;  ///< why there is nothing to show
  std::future<AttentionTile> loading;
  AttentionTile tile;
  ImTextureID texture = 0;
};

/// What panels remember between frames; one for each viewer.
struct Caches {
  std::map<std::string, CachedMap> maps;
  std::map<int, Memo<Timeline>> timelines;  ///< by decision
  Memo<std::vector<SpectrumPlot>> spectra;
  AttentionCache attention;
  Memo<std::vector<StripToken>> strip;
  Memo<std::vector<float>> token_widths;
  Memo<Inspection> inspection;
  Memo<HeadMap> heads;
  Memo<Agreement> agreement;
  Memo<ScoreHistogram> histogram;
  Memo<SearchResult> search;
  Memo<MergeGraph> merges;
  Memo<std::array<ClassShare, token_classes>> classes_a;
  Memo<std::array<ClassShare, token_classes>> classes_b;
  std::map<std::string, std::string> trial_values;  ///< typed into the parameters of a trial
  std::map<int, int> token_places;                  ///< first token of each id
  int trial_of = -1;                                ///< decision that the trial starts from
  bool focus_search = false;  ///< the search field takes the keyboard in this frame
};

}  // namespace kvscope::gui
