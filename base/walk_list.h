#pragma once
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace zt {

// A list that is gone through in pieces, by any number of walks at a time: those that come or go between two pieces disturb none of
// them. Elements are linked by a hook of their own and leave when they are destroyed; the list owns nothing. One thread.
template <class T>
class WalkList {
  enum class Kind : uint8_t { kElement, kWalk };
  using AutoUnlink = boost::intrusive::link_mode<boost::intrusive::auto_unlink>;
  struct Tag;
  class Place : public boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>, AutoUnlink> {
   protected:
    explicit Place(Kind kind) : kind_(kind) {}
    Place(const Place&) = delete;
    ~Place() = default;

   private:
    friend class WalkList;
    const Kind kind_;
  };
  using List = boost::intrusive::list<
      Place, boost::intrusive::base_hook<boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>, AutoUnlink>>,
      boost::intrusive::constant_time_size<false>>;

 public:
  // What T derives from.
  class Element : public Place {
   protected:
    Element() : Place(Kind::kElement) {}
    ~Element() = default;
  };

  // How far one walk has come. It ends with its list.
  class Walk : Place {
   public:
    Walk() : Place(Kind::kWalk) {}
    // From the newest on. Those that are added from now on are not visited.
    void begin(WalkList& list) {
      this->unlink();
      list_ = &list.places_;
      list_->push_front(*this);
    }
    // The next one; null when there is none left. It may be destroyed before the next call.
    T* next() {
      if (done()) return nullptr;
      auto place = std::next(List::s_iterator_to(*this));
      this->unlink();
      for (; place != list_->end(); ++place) {
        if (place->kind_ != Kind::kElement) continue;
        list_->insert(std::next(place), *this);
        return element(*place);
      }
      return nullptr;
    }
    [[nodiscard]] bool done() const { return !this->is_linked(); }

    // One piece: `step` for at most `most` of them. `anew` begins. True when none is left.
    template <class F>
    bool some(WalkList& list, bool anew, size_t most, F&& step) {
      if (anew) begin(list);
      for (; most > 0; --most) {
        T* const each = next();
        if (each == nullptr) break;
        step(*each);
      }
      return done();
    }

   private:
    friend class WalkList;
    List* list_ = nullptr;
  };

  WalkList() = default;
  WalkList(const WalkList&) = delete;

  void add(T& element) { places_.push_front(element); }
  // The newest. Null: there is none. Costs as much as there are walks in front of it.
  [[nodiscard]] T* front() {
    for (Place& place : places_) {
      if (place.kind_ == Kind::kElement) return element(place);
    }
    return nullptr;
  }

 private:
  static T* element(Place& place) { return static_cast<T*>(static_cast<Element*>(&place)); }
  List places_;
};

}  // namespace zt
