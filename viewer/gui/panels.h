#pragma once

namespace kvscope::gui {

struct Ui;

void draw_selection(Ui& ui);
void draw_strip(Ui& ui);
void draw_fate_map_a(Ui& ui);
void draw_fate_map_b(Ui& ui);
void draw_difference(Ui& ui);
void draw_heads(Ui& ui);
void draw_inspector(Ui& ui);
void draw_agreement(Ui& ui);
void draw_answers(Ui& ui);
void draw_attention(Ui& ui);
void draw_next_token(Ui& ui);
void draw_classes(Ui& ui);
void draw_scores(Ui& ui);
void draw_checks(Ui& ui);
void draw_methods(Ui& ui);
void draw_search(Ui& ui);
void draw_what_if(Ui& ui);
void draw_bookmarks(Ui& ui);
void draw_run(Ui& ui);
void draw_steps(Ui& ui);
void draw_merges(Ui& ui);
void draw_claims(Ui& ui);
void draw_ranks(Ui& ui);
/// The plot of that name among `spectrum_plots`.
void draw_spectrum_plot(Ui& ui, const char* name);

}  // namespace kvscope::gui
