#pragma once
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

namespace zt::test {

// A directory of its own, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "zt-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;

  [[nodiscard]] std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  void write(std::string_view name, std::string_view content) const {
    std::ofstream(file(name), std::ios::binary | std::ios::trunc) << content;
  }

 private:
  std::string path_;
};

// A file as Kubernetes mounts it: name → ..data/name, ..data → a directory with the present content, swapped
// as a whole by a rename.
class MountedFile {
 public:
  MountedFile(std::string name, std::string_view content) : name_(std::move(name)) {
    publish(content);
    std::filesystem::create_symlink("..data/" + name_, dir_.file(name_));
  }
  [[nodiscard]] std::string path() const { return dir_.file(name_); }
  void publish(std::string_view content) {
    const std::string version = "..version-" + std::to_string(++version_);
    std::filesystem::create_directory(dir_.file(version));
    dir_.write(version + "/" + name_, content);
    std::filesystem::create_symlink(version, dir_.file("..data_tmp"));
    std::filesystem::rename(dir_.file("..data_tmp"), dir_.file("..data"));
  }

 private:
  TempDir dir_;
  std::string name_;
  int version_ = 0;
};

}  // namespace zt::test
