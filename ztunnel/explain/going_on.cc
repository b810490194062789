#include "ztunnel/explain/going_on.h"

namespace zt::ztunnel {

namespace {
// Of one item; a file whose every value is wrong is not the file that was meant.
constexpr int kMostMistakes = 200;

bool contains(const yaml::Node& whole, const yaml::Node& part) {
  if (&whole == &part) return true;
  for (const yaml::Node* child = whole.first; child != nullptr; child = child->next)
    if (contains(*child, part)) return true;
  return false;
}
}  // namespace

bool read_going_on(const yaml::Value& item, const std::function<void()>& read,
                   const std::function<void(const yaml::Refusal&)>& mistake) {
  for (int count = 0; count < kMostMistakes; ++count) {
    try {
      read();
      return !item.passed_over();
    } catch (const yaml::Refusal& refusal) {
      // Without a text: what was passed over cannot be done without, nor, in the end, can the item.
      if (refusal.node == nullptr || refusal.node->passed_over || !contains(item.node(), *refusal.node)) return false;
      // What the item as a whole lacks, once something was passed over, is that.
      if (!refusal.text.empty() && (refusal.node != &item.node() || count == 0)) mistake(refusal);
      refusal.node->passed_over = true;
    }
  }
  return false;
}

}  // namespace zt::ztunnel
