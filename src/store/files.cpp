#include "store/files.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "store/checksum.h"
#include "store/file_io.h"

namespace ldmtune::store {
namespace {

constexpr int kDeepestJson = 100;

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
}

/// A name beside `file` that no other process or thread uses.
std::filesystem::path temporary_beside(const std::filesystem::path& file) {
  static std::atomic<unsigned> counter{0};
  return folder_of(file) / cat(".", file.filename().string(), ".", ::getpid(), "-", counter++, ".partial");
}

std::string line_and_column(const std::string& text, std::size_t byte) {
  std::size_t line = 1, column = 1;
  for (const char c : text.substr(0, byte == 0 ? 0 : byte - 1)) {
    column = c == '\n' ? 1 : column + 1;
    line += c == '\n';
  }
  return cat("line ", line, ", column ", column);
}

/// Python's json writes NaN, Infinity and -Infinity (some scheduler configs hold them): outside strings they become
/// null.
std::string without_python_constants(const std::string& text) {
  static const std::string constants[] = {"-Infinity", "Infinity", "NaN"};
  std::string out;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto* constant = in_string ? std::end(constants)
                                     : std::find_if(std::begin(constants), std::end(constants),
                                                    [&](const auto& c) { return text.compare(at, c.size(), c) == 0; });
    if (constant != std::end(constants)) {
      out += "null";
      at += constant->size() - 1;
      continue;
    }
    out += text[at];
    if (text[at] == '"') in_string = !in_string;
    if (in_string && text[at] == '\\' && at + 1 < text.size()) out += text[++at];
  }
  return out;
}

void hash_shape(Sha256& hash, const std::string& name, const at::Tensor& tensor) {
  hash.update(name);
  hash.update(std::string(1, '\0'));
  for (const std::int64_t size : tensor.sizes()) hash.update(cat(size, ","));
  hash.update(std::string(1, '\0'));
}

void hash_bytes(Sha256& hash, const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().cpu().contiguous();
  hash.update({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

}  // namespace

void write_atomically(const std::filesystem::path& file,
                      const std::function<void(const std::filesystem::path& temporary)>& write) {
  const std::filesystem::path folder = folder_of(file);
  if (!std::filesystem::is_directory(folder)) {
    fail_input(file, ": expected its folder ", folder, " to exist, found none. Create it or choose another path.");
  }
  if (std::filesystem::is_directory(file)) {
    fail_input(file, ": expected a file to write, found a folder of this name. Choose another path.");
  }
  const std::filesystem::path temporary = temporary_beside(file);
  try {
    write(temporary);
    sync_path(temporary);
    std::filesystem::rename(temporary, file);
  } catch (const std::filesystem::filesystem_error& error) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    fail("cannot write ", file, ": ", error.code().message(), ".");
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  sync_path(folder);
}

void write_text(const std::filesystem::path& file, const std::string& text) {
  write_atomically(file, [&](const std::filesystem::path& temporary) { OutputFile(temporary).append(text); });
}

std::string read_text(const std::filesystem::path& file, std::uintmax_t limit) {
  const InputFile input(file);
  if (input.size() > limit) {
    fail_input(file, ": expected at most ", limit, " bytes, found ", input.size(), ". Is it the right file?");
  }
  return input.read_string(0, input.size());
}

nlohmann::json read_json(const std::filesystem::path& file) {
  const std::string text = read_text(file);
  const auto guard = [&file](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kDeepestJson) {
      fail_input(file, ": expected JSON nested at most ", kDeepestJson, " deep, found more. Is it the right file?");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, guard);
  } catch (const nlohmann::json::exception&) {
    try {
      return nlohmann::json::parse(without_python_constants(text), guard);
    } catch (const nlohmann::json::parse_error& error) {
      fail_input(file, ": expected valid JSON, found an error at ", line_and_column(text, error.byte), ": ",
                 printable(error.what(), 300), ". Fetch or write the file again.");
    } catch (const nlohmann::json::exception& error) {
      fail_input(file, ": expected valid JSON, found: ", printable(error.what(), 300), ".");
    }
  }
}

void write_json(const std::filesystem::path& file, const nlohmann::json& value) {
  write_text(file, value.dump(2) + "\n");
}

void sync_folder(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() || entry.is_directory()) sync_path(entry.path());
  }
  sync_path(folder);
}

void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) fail("cannot rename ", from, " to ", to, ": ", error.message(), ".");
  sync_path(folder_of(to));
}

std::string sha256_file(const std::filesystem::path& file, std::uint64_t offset) {
  const InputFile input(file);
  Sha256 hash;
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (std::uint64_t at = offset; at < input.size(); at += buffer.size()) {
    const std::size_t count = std::min<std::uint64_t>(buffer.size(), input.size() - at);
    const std::span<std::byte> chunk(buffer.data(), count);
    input.read(at, chunk);
    hash.update(chunk);
  }
  return hash.hex();
}

std::string sha256_bytes(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_text(const std::string& text) { return sha256_bytes(std::as_bytes(std::span(text))); }

std::string sha256_tensors(const TensorMap& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    hash_shape(hash, name, tensor);
    hash_bytes(hash, tensor.is_floating_point() ? tensor.to(at::kHalf) : tensor.to(at::kLong));
  }
  return hash.hex();
}

std::string sha256_tensors_exact(const TensorMap& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    hash_shape(hash, name, tensor);
    hash.update(cat(c10::toString(tensor.scalar_type()), '\0'));
    hash_bytes(hash, tensor);
  }
  return hash.hex();
}

}  // namespace ldmtune::store
