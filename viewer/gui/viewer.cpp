#include "viewer.h"

#include <algorithm>
#include <utility>

#include "fonts.h"
#include "kvscope/core/error.h"
#include "kvscope/scene/texts.h"
#include "panels.h"
#include "png_file.h"
#include "sidecar.h"

namespace kvscope::gui {
namespace {

constexpr std::size_t undo_steps = 256;
constexpr double wheel_gesture_seconds = 0.3;
constexpr double play_seconds = 0.25;
constexpr float least_scale = 0.6f;
constexpr float most_scale = 4;

}  // namespace

ImU32 to_imgui(Colour colour, float alpha) {
  return IM_COL32(colour.r, colour.g, colour.b, static_cast<int>(alpha * 255));
}

Viewer::Viewer(Scene scene, State state, Backend& backend, float scale, std::string sidecar)
    : scene_(std::move(scene)),
      state_(clamped(std::move(state), scene_.limits())),
      backend_(backend),
      sidecar_(std::move(sidecar)),
      bookmarks_(load_bookmarks(sidecar_, scene_.capture.capture_hash)),
      scale_(std::clamp(scale, least_scale, most_scale)) {}

Ui Viewer::ui(State& wanted) {
  return {scene_,     state_,   wanted,   backend_, caches_,
          bookmarks_, what_if_, command_, checker_, state_.theme != "light",
          scale_};
}

bool Viewer::in_gesture() const {
  return ImGui::IsAnyMouseDown() || ImGui::IsAnyItemActive() ||
         ImGui::GetTime() - wheel_time_ < wheel_gesture_seconds;
}

void Viewer::set_state(const State& state) {
  const State next = clamped(state, scene_.limits());
  if (next == state_) {
    return;
  }
  if (!gesture_) {
    past_.push_back(state_);
    if (past_.size() > undo_steps) {
      past_.erase(past_.begin());
    }
  }
  gesture_ = in_gesture();
  future_.clear();
  state_ = next;
}

void Viewer::run(const std::string& id) {
  const Command& entry = command(id);
  gesture_ = false;
  set_state(run_command(id, scene_, state_));
  gesture_ = false;
  perform(entry.effect);
}

void Viewer::replace(Scene scene) {
  const bool all = state_.first == 0 && state_.last == scene_.token_count();
  scene_ = std::move(scene);
  state_.last = all ? 0 : state_.last;
  caches_ = Caches{};
  state_ = clamped(state_, scene_.limits());
  if (following_) {
    state_.token = std::max(0, scene_.token_count() - 1);
    state_.seen = -1;
    state_.before = false;
  }
  say("the files changed: read again");
}

void Viewer::undo() {
  if (!past_.empty()) {
    future_.push_back(state_);
    state_ = past_.back();
    past_.pop_back();
  }
}

void Viewer::redo() {
  if (!future_.empty()) {
    past_.push_back(state_);
    state_ = future_.back();
    future_.pop_back();
  }
}

void Viewer::perform(Effect effect) {
  try {
    switch (effect) {
      case Effect::undo:
        return undo();
      case Effect::redo:
        return redo();
      case Effect::palette:
        palette_open_ = true;
        return;
      case Effect::help:
        help_open_ = true;
        return;
      case Effect::find: {
        State explore = state_;
        explore.layout = "explore";
        set_state(explore);
        ImGui::SetWindowFocus("Search");  // brings its tab to the front
        caches_.focus_search = true;
        return;
      }
      case Effect::play:
        playing_ = !playing_;
        return;
      case Effect::follow:
        following_ = !following_;
        return say(following_ ? "following the newest token" : "no longer following");
      case Effect::copy_link:
        ImGui::SetClipboardText(to_link(state_).c_str());
        return say("link copied");
      case Effect::copy_value:
        ImGui::SetClipboardText(inspection_text(scene_, state_).c_str());
        return say("copied what the inspector says");
      case Effect::bookmark:
        bookmarks_.push_back({place_title(scene_, state_), "", state_});
        return say(save_bookmarks(sidecar_, bookmarks_, scene_.capture.capture_hash));
      case Effect::export_csv:
        return say(save_export("csv", export_csv(scene_, state_)));
      case Effect::export_png: {
        const std::string path = free_name("png");
        write_png(path, backend_.read_back());
        return say(path);
      }
      case Effect::recompute:
        what_if_.start = true;
        return;
      case Effect::larger:
      case Effect::smaller:
        scale_ = std::clamp(scale_ * (effect == Effect::larger ? 1.1f : 1 / 1.1f), least_scale,
                            most_scale);
        return;
      case Effect::quit:
        quit_ = true;
        return;
      default:
        return;
    }
  } catch (const Error& error) {
    say("error: " + error.message());
  }
}

void Viewer::keys() {
  if (ImGui::GetIO().WantTextInput) {
    return;
  }
  for (const Command& entry : commands()) {
    const ImGuiKeyChord chord = chord_of(entry.key);
    if (chord != 0 && ImGui::IsKeyChordPressed(chord)) {
      command_ = entry.id;
    }
  }
}

void Viewer::play() {
  if (!playing_ || ImGui::GetTime() - play_time_ < play_seconds) {
    return;
  }
  play_time_ = ImGui::GetTime();
  const bool at_end = state_.seen < 0;
  run(at_end ? "first_moment" : "step_on");
  playing_ = state_.seen >= 0;
}

void Viewer::try_method() {
  try {
    if (std::exchange(what_if_.cancel, false)) {
      job_.reset();
      what_if_.message = "cancelled";
    }
    if (std::exchange(what_if_.start, false) && !job_ && !scene_.decisions.empty()) {
      const Decision& a = scene_.decisions[static_cast<std::size_t>(state_.a)].decision;
      job_ = std::make_unique<DecideJob>(scene_.capture.path,
                                         what_if_.method.empty() ? a.method : what_if_.method,
                                         what_if_.keep.empty() ? a.keep : what_if_.keep);
      what_if_.message.clear();
    }
    std::optional<Decision> decision = job_ ? job_->poll() : std::nullopt;
    if (decision) {
      job_.reset();
      add_decision(scene_, std::move(*decision), "trial");
      State next = state_;
      next.b = state_.a;
      next.a = static_cast<int>(scene_.decisions.size()) - 1;
      set_state(next);
      what_if_.message = "the trial is " + scene_.decisions.back().title;
    }
  } catch (const Error& error) {
    job_.reset();
    what_if_.message = error.message() + (error.fix().empty() ? "" : "; " + error.fix());
  }
  what_if_.running_seconds = job_ ? job_->seconds() : -1;
}

void Viewer::header() {
  const ImGuiViewport* viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(ImVec2(viewport->WorkSize.x, 0));
  ImGui::Begin("kvscope", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove |
                   ImGuiWindowFlags_NoDocking | ImGuiWindowFlags_NoSavedSettings |
                   ImGuiWindowFlags_NoBringToFrontOnFocus | ImGuiWindowFlags_AlwaysAutoResize);
  ImGui::TextUnformatted(headline(scene_).c_str());
  const std::string hint =
      message_.empty() ? "Ctrl+K commands    F1 keys    Ctrl+Shift+C link" : message_;
  const float width = ImGui::CalcTextSize(hint.c_str()).x;
  const float room = ImGui::GetWindowWidth() - ImGui::GetStyle().WindowPadding.x;
  const float used = ImGui::GetItemRectMax().x - ImGui::GetWindowPos().x;
  if (used + width + ImGui::GetFontSize() < room) {
    ImGui::SameLine(room - width);
    ImGui::TextDisabled("%s", hint.c_str());
  } else if (!message_.empty()) {
    ImGui::TextDisabled("%s", message_.c_str());
  }
  State wanted = state_;
  Ui bar = ui(wanted);
  draw_selection(bar);
  header_height_ = ImGui::GetWindowHeight();
  ImGui::End();
  set_state(wanted);
}

void Viewer::dock() {
  const ImGuiViewport* viewport = ImGui::GetMainViewport();
  const ImGuiID root = ImGui::GetID("kvscope.dock");
  ImGui::SetNextWindowPos(ImVec2(viewport->WorkPos.x, viewport->WorkPos.y + header_height_));
  const ImVec2 size(viewport->WorkSize.x, viewport->WorkSize.y - header_height_);
  ImGui::SetNextWindowSize(size);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowPadding, ImVec2(0, 0));
  ImGui::Begin("##dock", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove |
                   ImGuiWindowFlags_NoDocking | ImGuiWindowFlags_NoSavedSettings |
                   ImGuiWindowFlags_NoBringToFrontOnFocus | ImGuiWindowFlags_NoNavFocus);
  ImGui::PopStyleVar();
  if (docked_layout_ != state_.layout && header_height_ > 0) {
    docked_layout_ = state_.layout;
    dock_panels(root, state_.layout, size);
  }
  ImGui::DockSpace(root);
  ImGui::End();
}

void Viewer::draw_panels(Ui& context) {
  for (const Panel& panel : panels()) {
    if (std::string_view(panel.layout).find(state_.layout) == std::string_view::npos) {
      continue;
    }
    if (ImGui::Begin(panel.title, nullptr,
                     ImGuiWindowFlags_NoCollapse | ImGuiWindowFlags_NoFocusOnAppearing)) {
      panel.draw(context);
    }
    ImGui::End();
  }
}

void Viewer::draw_only(Ui& context) {
  const ImGuiViewport* viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(viewport->WorkSize);
  if (ImGui::Begin("##only", nullptr,
                   ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove |
                       ImGuiWindowFlags_NoDocking | ImGuiWindowFlags_NoSavedSettings)) {
    only_->draw(context);
  }
  ImGui::End();
}

void Viewer::frame() {
  if (theme_ != state_.theme || applied_scale_ != scale_) {
    theme_ = state_.theme;
    applied_scale_ = scale_;
    apply_theme(theme_, scale_);
  }
  if (ImGui::GetIO().MouseWheel != 0) {
    wheel_time_ = ImGui::GetTime();
  }
  gesture_ = gesture_ && in_gesture();
  keys();
  play();
  try_method();
  if (only_ == nullptr) {
    header();
    dock();
  }
  State wanted = state_;
  Ui context = ui(wanted);
  if (only_ != nullptr) {
    draw_only(context);
  } else {
    draw_panels(context);
  }
  set_state(wanted);
  palette();
  help();
  if (!command_.empty()) {
    run(std::exchange(command_, {}));
  }
}

}  // namespace kvscope::gui
