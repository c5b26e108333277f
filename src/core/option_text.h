#pragma once
// Reading and printing of one option value. parse_value throws std::invalid_argument with what was expected.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/path_list.h"

namespace ldmtune {

void parse_value(const std::string& text, bool& value);
void parse_value(const std::string& text, std::int64_t& value);
void parse_value(const std::string& text, std::uint64_t& value);
void parse_value(const std::string& text, double& value);
void parse_value(const std::string& text, std::string& value);
void parse_value(const std::string& text, std::filesystem::path& value);
void parse_value(const std::string& text, PathList& value);
void parse_value(const std::string& text, std::vector<double>& value);
void parse_value(const std::string& text, std::vector<std::string>& value);

std::string print_value(bool value);
std::string print_value(std::int64_t value);
std::string print_value(std::uint64_t value);
std::string print_value(double value);
std::string print_value(const std::string& value);
std::string print_value(const std::filesystem::path& value);
std::string print_value(const PathList& value);
std::string print_value(const std::vector<double>& value);
std::string print_value(const std::vector<std::string>& value);

/// Trimmed; without outer double quotes and their backslashes.
std::string unquote(const std::string& text);
/// First `wanted` at or after `from` that stands outside double quotes; npos if none.
std::size_t find_unquoted(const std::string& text, char wanted, std::size_t from = 0);

}  // namespace ldmtune
