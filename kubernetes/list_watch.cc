#include "kubernetes/list_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::kubernetes {

namespace {
log::Scope log_watch("kubernetes");

constexpr size_t kMaxRefusal = 16 * 1024;  // read of an answer that is no success
constexpr unsigned kOk = 200, kBadRequest = 400, kGone = 410, kGatewayTimeout = 504;
// A watch that ends by itself before this is no reason to ask again at once, nor a sign that all is well.
constexpr std::chrono::seconds kShortWatch{1};
// Of what a server asks us to wait.
constexpr std::chrono::seconds kMostRetryAfter{120};
}  // namespace

ListWatch::ListWatch(EventLoop& loop, Api& api, Options options, std::function<void()> on_change)
    : api_(api),
      options_(std::move(options)),
      on_change_(std::move(on_change)),
      backoff_(options_.first_pause, options_.most_pause, 0.5, options_.random),
      pause_(loop),
      page_(options_.page) {}

void ListWatch::start() { list(); }

void ListWatch::list() {
  doing_ = Doing::kListing;
  ++counts_.lists;
  continue_.clear();
  coming_.clear();
  next_page();
}

void ListWatch::next_page() {
  std::string target = fmt::format("{}?limit={}", options_.path, page_);
  if (!options_.field_selector.empty()) target += "&fieldSelector=" + query_escaped(options_.field_selector);
  if (!continue_.empty()) target += "&continue=" + query_escaped(continue_);
  begin({.target = std::move(target), .idle_limit = options_.answer_limit});
}

void ListWatch::watch() {
  doing_ = Doing::kWatching;
  ++counts_.watches;
  began_ = heard_at_ = Clock::now();
  heard_ = false;
  // Nodes that began together do not come back together.
  const auto time =
      options_.watch_time + std::chrono::duration_cast<std::chrono::seconds>(options_.watch_time * options_.random() / 2);
  std::string target = fmt::format("{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}", options_.path,
                                   time.count(), query_escaped(version_));
  if (!options_.field_selector.empty()) target += "&fieldSelector=" + query_escaped(options_.field_selector);
  begin({.target = std::move(target), .idle_limit = options_.watch_idle});
}

void ListWatch::begin(ApiRequest request) {
  head_ = {};
  body_.clear();
  skipping_ = false;
  call_ = api_.start(std::move(request), {.on_head = [this](const ApiHead& head) { on_head(head); },
                                          .on_data = [this](const std::string& data) { on_data(data); },
                                          .on_end = [this](const Result<>& end) { on_end(end); }});
}

void ListWatch::on_head(const ApiHead& head) {
  head_ = head;
  heard_at_ = Clock::now();
}

void ListWatch::on_data(const std::string& data) {
  heard_at_ = Clock::now();
  if (head_.status != kOk) {
    body_ += std::string_view(data).substr(0, kMaxRefusal - std::min(body_.size(), kMaxRefusal));
  } else if (doing_ == Doing::kWatching) {
    take_lines(data);
    if (std::exchange(changed_, false)) on_change_();
  } else if (body_.size() + data.size() > options_.page_bytes) {
    const size_t was = page_;
    page_ = std::max<size_t>(1, page_ / 2);
    try_again({Reason::kResourceLimit, fmt::format("Kubernetes API, {}: a page of {} objects takes more than {} bytes",
                                                   options_.path, was, options_.page_bytes)});
  } else {
    body_ += data;
  }
}

void ListWatch::on_end(const Result<>& end) {
  if (head_.status != 0 && head_.status != kOk) {
    Status status = parse_status(body_);
    if (status.code == 0) status.code = head_.status;
    return refused(status);
  }
  // A resource that does not change has no bookmarks either (Kubernetes 1.34), so a silent watch is no failing server: to pause before the
  // next would only be to hear late of what comes then. A server that is gone fails the next one.
  const bool held = doing_ == Doing::kWatching && head_.status == kOk && Clock::now() - heard_at_ >= options_.watch_idle;
  if (!end && held) {
    ZT_LOG(log_watch, kDebug, "taking up a silent watch again", Field::string("path", options_.path));
    end_call();
    backoff_.reset();
    last_error_.clear();
    return watch();
  }
  if (!end) return try_again(end.error());
  if (doing_ == Doing::kListing) return take_page();
  if (!body_.empty() || skipping_) {
    return try_again({Reason::kIo, fmt::format("Kubernetes API, watch of {}: ended within an event", options_.path)});
  }
  const bool lasted = Clock::now() - began_ >= kShortWatch;
  if (!heard_ && !lasted) {
    // So a server ends a watch of a version that is ahead of its own, as after a restored backup; or one that has just started.
    if (std::exchange(ended_at_once_, true)) version_.clear();
    return try_again({Reason::kIo, fmt::format("Kubernetes API, watch of {}: ended at once", options_.path)});
  }
  end_call();
  if (lasted) {
    backoff_.reset();
    return watch();
  }
  pause_.start_after(backoff_.next(), [this] { watch(); });
}

void ListWatch::take_page() {
  auto page = parse_list(body_);
  if (!page) {
    return try_again({page.error().reason, fmt::format("Kubernetes API, list of {}: {}", options_.path, page.error().text)});
  }
  for (const auto& bad : page->bad) {
    take_bad(bad);
    // What was known of it stays.
    if (const auto former = objects_.find(bad.key); former != objects_.end()) coming_.insert(*former);
  }
  for (auto& item : page->items) {
    std::string key = item.key();
    coming_.insert_or_assign(std::move(key), std::move(item));
  }
  if (coming_.size() > options_.most_objects) {
    return try_again({Reason::kResourceLimit,
                      fmt::format("Kubernetes API, list of {}: more than {} objects", options_.path, options_.most_objects)});
  }
  continue_ = std::move(page->next);
  version_ = std::move(page->version);
  end_call();
  if (!continue_.empty()) return next_page();
  if (!std::exchange(last_error_, {}).empty()) ZT_LOG(log_watch, kInfo, "listed again", Field::string("path", options_.path));
  const bool changed = !synced_ || objects_ != coming_;
  objects_ = std::exchange(coming_, {});
  synced_ = true;
  watch();
  if (changed) on_change_();
}

void ListWatch::take_lines(std::string_view data) {
  while (!data.empty()) {
    const auto end = data.find('\n');
    const auto part = data.substr(0, end);
    if (!skipping_ && body_.size() + part.size() > options_.event_bytes) {
      skipping_ = true;
      body_.clear();
      take_bad({.key = "?", .text = fmt::format("an event of more than {} bytes", options_.event_bytes)});
    }
    if (!skipping_) body_ += part;
    if (end == std::string_view::npos) return;
    data.remove_prefix(end + 1);
    if (std::exchange(skipping_, false)) continue;
    const std::string line = std::exchange(body_, {});
    if (line.empty() || line == "\r") continue;
    if (!take_event(line)) return;
  }
}

bool ListWatch::take_event(std::string_view line) {
  auto event = parse_event(line);
  if (!event) {
    try_again({event.error().reason, fmt::format("Kubernetes API, watch of {}: {}", options_.path, event.error().text)});
    return false;
  }
  if (event->type == WatchEvent::Type::kError) {
    refused(event->status);
    return false;
  }
  heard_ = true;
  ended_at_once_ = false;
  if (Clock::now() - began_ >= kShortWatch) backoff_.reset();
  if (!std::exchange(last_error_, {}).empty()) ZT_LOG(log_watch, kInfo, "watching again", Field::string("path", options_.path));
  if (event->bad) {
    take_bad(*event->bad);
    // What is gone is gone, whatever else is wrong with it.
    if (event->type == WatchEvent::Type::kDeleted) changed_ = objects_.erase(event->bad->key) > 0 || changed_;
    return true;
  }
  Object& object = event->object;
  if (!object.version.empty()) version_ = object.version;
  if (event->type == WatchEvent::Type::kBookmark) return true;
  const std::string key = object.key();
  if (event->type == WatchEvent::Type::kDeleted) {
    changed_ = objects_.erase(key) > 0 || changed_;
    return true;
  }
  if (objects_.size() >= options_.most_objects && !objects_.contains(key)) {
    take_bad({.key = key, .text = fmt::format("there are {} objects already", options_.most_objects)});
    return true;
  }
  objects_.insert_or_assign(key, std::move(object));
  changed_ = true;
  return true;
}

void ListWatch::take_bad(const BadObject& bad) {
  ++counts_.bad_objects;
  ZT_LOG(log_watch, kError, "an object of the Kubernetes API is passed over", Field::string("path", options_.path),
         Field::string("object", bad.key), Field::string("error", bad.text));
}

void ListWatch::refused(const Status& status) {
  // A version that makes no sense to the server, or is ahead of its own ("Too large resource version"), is never had again either.
  const bool no_such_place = doing_ == Doing::kWatching && (status.code == kBadRequest || status.code == kGatewayTimeout);
  const bool gone = status.code == kGone || status.reason == "Expired" || no_such_place;
  const Error error{Reason::kIo, fmt::format("Kubernetes API, {} of {}: {} {}: {}", doing_ == Doing::kListing ? "list" : "watch",
                                             options_.path, status.code, status.reason, status.message)};
  const auto least = std::min<std::chrono::milliseconds>(head_.retry_after.value_or(std::chrono::seconds(0)), kMostRetryAfter);
  if (gone) version_.clear();
  try_again(error, least);
}

// A watch goes on where it was; a list begins anew, since its token may be what was refused.
void ListWatch::try_again(const Error& error, std::chrono::milliseconds least) {
  note(error);
  ++counts_.failures;
  end_call();
  const bool resume = doing_ == Doing::kWatching && !version_.empty();
  pause_.start_after(std::max<std::chrono::milliseconds>(backoff_.next(), least), [this, resume] { resume ? watch() : list(); });
}

void ListWatch::note(const Error& error) {
  if (std::exchange(last_error_, error.text) == error.text) return;
  ZT_LOG(log_watch, kWarn, "tried again later", Field::string("error", error.text));
}

void ListWatch::end_call() {
  call_.reset();
  body_.clear();
}

}  // namespace zt::kubernetes
