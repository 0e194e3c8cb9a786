// The facts of build_facts.h as lines of name=value, for dsae_core/_native.py, which finds this function by its name.
#include "build_facts.h"

extern "C" __attribute__((visibility("default"))) const char* dsae_build_facts() {
  static const std::string text = [] {
    std::string lines;
    for (const auto& [name, value] : dsae::build_facts()) lines += std::string(name) + "=" + value + "\n";
    return lines;
  }();
  return text.c_str();
}
