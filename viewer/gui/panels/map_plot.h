#pragma once

#include <string>

#include "kvscope/scene/raster.h"
#include "viewer.h"

namespace kvscope::gui {

/// The selected heads as part of a cache key.
std::string heads_key(const State& state);

/// The tokens in view at the size of the plot that fills the rest of the panel.
ShareRaster raster_view(const Ui& ui);
std::string raster_key(const Ui& ui, const ShareRaster& view);

/// Mean or worst of the tokens that share a pixel, and how many those are.
void aggregate_choice(Ui& ui, const char* slot);

/// A plot of layers over tokens around one textured quad: a click selects layer and token, drag and
/// wheel move the view; the selected token, the selected layer and the matches of the search are
/// marked.
void plot_map(Ui& ui, const char* slot, ImTextureID texture);

}  // namespace kvscope::gui
