#include <cctype>
#include <utility>

#include "viewer.h"

namespace kvscope::gui {
namespace {

ImGuiKey key_of(const std::string& name) {
  if (name.size() == 1 && std::isalpha(static_cast<unsigned char>(name[0])) != 0) {
    return static_cast<ImGuiKey>(ImGuiKey_A + (name[0] - 'A'));
  }
  if (name.size() == 1 && std::isdigit(static_cast<unsigned char>(name[0])) != 0) {
    return static_cast<ImGuiKey>(ImGuiKey_0 + (name[0] - '0'));
  }
  if (name.size() == 2 && name[0] == 'F' && name[1] >= '1' && name[1] <= '9') {
    return static_cast<ImGuiKey>(ImGuiKey_F1 + (name[1] - '1'));
  }
  const std::pair<const char*, ImGuiKey> named[] = {
      {"Left", ImGuiKey_LeftArrow}, {"Right", ImGuiKey_RightArrow}, {"Up", ImGuiKey_UpArrow},
      {"Down", ImGuiKey_DownArrow}, {"Home", ImGuiKey_Home},        {"End", ImGuiKey_End},
      {"Space", ImGuiKey_Space},    {",", ImGuiKey_Comma},          {".", ImGuiKey_Period},
      {"[", ImGuiKey_LeftBracket},  {"]", ImGuiKey_RightBracket},   {"=", ImGuiKey_Equal},
      {"-", ImGuiKey_Minus}};
  for (const auto& [text, key] : named) {
    if (name == text) {
      return key;
    }
  }
  return ImGuiKey_None;
}

}  // namespace

ImGuiKeyChord chord_of(const std::string& text) {
  std::string name = text;
  ImGuiKeyChord modifiers = 0;
  const std::pair<const char*, ImGuiKey> prefixes[] = {{"Ctrl+", ImGuiMod_Ctrl},
                                                       {"Shift+", ImGuiMod_Shift}};
  for (const auto& [prefix, modifier] : prefixes) {
    if (name.starts_with(prefix)) {
      modifiers |= modifier;
      name = name.substr(std::string(prefix).size());
    }
  }
  const ImGuiKey key = key_of(name);
  return key == ImGuiKey_None ? 0 : modifiers | key;
}

}  // namespace kvscope::gui
