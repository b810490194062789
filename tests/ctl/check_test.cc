#include "ctl/check.h"

#include <fmt/format.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "ctl/bugreport.h"
#include "ctl/metrics.h"

namespace zt::ctl {
namespace {

Dump golden() {
  auto dump = read_dump({.admin = {}, .file = ZT_GOLDEN_DIR "/ztunnel/config_dump-with-connections.json"});
  REQUIRE(dump);
  return std::move(*dump);
}

size_t count(const Answers& answers, Answer::Verdict verdict, std::string_view part) {
  return static_cast<size_t>(std::ranges::count_if(answers, [&](const Answer& answer) {
    return answer.verdict == verdict && (answer.text + answer.remedy).find(part) != std::string::npos;
  }));
}

TEST_CASE("a certificate that ran out, one that is not valid yet and one that is good are told apart, with remedies") {
  const Dump dump = golden();
  const int64_t from = *parse_time("2026-11-23T02:50:05Z"), until = *parse_time("2026-11-24T02:52:05Z");
  Answers late, early, good;
  check_dump(dump, until + 1, late);
  check_dump(dump, from - 60, early);
  check_dump(dump, from + 60, good);
  CHECK(count(late, Answer::Verdict::kWrong, "ran out at") > 0);
  CHECK(count(early, Answer::Verdict::kWrong, "clock of this node is behind") > 0);
  CHECK(count(good, Answer::Verdict::kRight, "left") > 0);
  CHECK(all_right(good));
  CHECK_FALSE(all_right(late));
  for (const Answer& answer : late)
    if (answer.verdict == Answer::Verdict::kWrong) CHECK_FALSE(answer.remedy.empty());
}

TEST_CASE("a local file that the proxy refuses is wrong, with line and column") {
  const std::string path = fmt::format("/tmp/ztunnelctl-check-test-{}.yaml", ::getpid());
  const auto ask = [&](std::string_view content) {
    FILE* file = std::fopen(path.c_str(), "w");
    REQUIRE(file != nullptr);
    std::fwrite(content.data(), 1, content.size(), file);
    std::fclose(file);
    const auto dump =
        parse_dump(R"({"workloads": [], "services": [], "config": {"zt": {"localXdsPath": ")" + path + R"("}}})", "test");
    REQUIRE(dump);
    Answers answers;
    check_local_file(*dump, answers);
    REQUIRE(answers.size() == 1);
    return answers[0];
  };
  CHECK(ask("workloads:\n- {name: a, namespace: b, workloadIps: [10.0.0.1]}\n").verdict == Answer::Verdict::kRight);
  const Answer wrong = ask("workloads:\n- {name: a, namespace: b, workloadIps: [10.0.0.1], protocol: X}\n");
  CHECK(wrong.verdict == Answer::Verdict::kWrong);
  CHECK(wrong.text.find("line 2, column") != std::string::npos);
  std::remove(path.c_str());
}

TEST_CASE("nobody there is said, with where to look") {
  const Answers answers =
      check({.source = {.admin = "127.0.0.1:1", .file = {}}, .stats = "127.0.0.1:1", .readiness = "127.0.0.1:1", .pid = 0});
  CHECK(count(answers, Answer::Verdict::kWrong, "nothing listens there") == 1);
  CHECK(answers_text(answers).find("→ start ztunnel") != std::string::npos);
  CHECK(answers_json(answers).size() == answers.size());
}

TEST_CASE("capabilities of a process are read, and missing ones are named") {
  Answers answers;
  check_capabilities("self", answers);
  REQUIRE(answers.size() == 1);
  check_capabilities("0", answers);
  CHECK(answers[1].verdict == Answer::Verdict::kNotAsked);
}

TEST_CASE("metrics are read with labels, escapes and without what is none") {
  const auto samples = parse_metrics(
      "# HELP a b\na 1\nb_total{x=\"1\",y=\"a\\\"b\\\\c\\n}\"} 2.5\nbroken{x=\"1\nbroken2{x} 3\nnan NaN\nlast{z=\"\"} 7 123\n# "
      "EOF\n");
  REQUIRE(samples.size() == 4);
  CHECK(samples[0].value == 1);
  CHECK(samples[1].name == "b_total");
  CHECK(samples[1].label("y") == "a\"b\\c\n}");
  CHECK(samples[1].label("none").empty());
  CHECK(samples[3].value == 7);
}

TEST_CASE("a report has no value of a member that sounds like a secret") {
  const auto hidden = without_secrets(
      json::parse(R"({"a": {"authToken": "x1", "list": [{"MY_PASSWORD": "x2"}]}, "b": 3, "clientSecret": {"x": "x3"}})"));
  const std::string text = json::serialize(hidden);
  for (const char* secret : {"x1", "x2", "x3"}) CHECK(text.find(secret) == std::string::npos);
  CHECK(text.find("\"b\":3") != std::string::npos);
}

TEST_CASE("an archive is one that tar reads, with every file as it was") {
  const Files files{{"r/a.txt", "hello\n"}, {"r/empty", ""}, {"r/large", std::string(100'000, 'x')}};
  const auto archive = tar_gz(files, 1'700'000'000);
  REQUIRE(archive);
  CHECK_FALSE(tar_gz({{std::string(101, 'n'), ""}}, 0));
  const std::string path = fmt::format("/tmp/ztunnelctl-tar-test-{}.tar.gz", ::getpid());
  FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  std::fwrite(archive->data(), 1, archive->size(), file);
  std::fclose(file);
  CHECK(std::system(("test \"$(tar -xzOf " + path + " r/a.txt)\" = hello && test $(tar -xzOf " + path +
                     " r/large | wc -c) = 100000 && test $(tar -tzf " + path + " | wc -l) = 3")
                        .c_str()) == 0);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace zt::ctl
