#include "core/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "core/config.h"
#include "core/error.h"

namespace ldmtune {
namespace {

class ConfigFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    file_ = std::filesystem::temp_directory_path() / ("ldmtune-options-" + std::to_string(getpid()) + ".cfg");
    std::ofstream(file_) << text;
    return file_;
  }
  void TearDown() override { std::filesystem::remove(file_); }
  std::filesystem::path file_;
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no InputError";
}

TEST_F(ConfigFile, SectionsCommentsAndQuotes) {
  const auto settings =
      read_config_file(write("base = models/sd # a comment\n[caption]\ntemplate = \"a #1 | [name]\"  # hash\n"));
  ASSERT_EQ(settings.size(), 2u);
  EXPECT_EQ(settings[0].name, "base");
  EXPECT_EQ(settings[0].text, "models/sd");
  EXPECT_EQ(settings[1].name, "caption.template");
  EXPECT_EQ(settings[1].text, "\"a #1 | [name]\"");
}

TEST_F(ConfigFile, EchoReadsBackAsTheSameConfiguration) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  table.set({"caption.template", "\"say \\\"hi\\\" # | \\\\ ; end\"", "test"});
  table.set({"hypernetwork.layer_structure", "1, 2, 4, 2, 1", "test"});
  table.set({"optim.adam_epsilon", "1.0000000000000002e-8", "test"});
  table.set({"sample.prompts", "a cat | \"a | b\" | dog", "test"});
  table.set({"output", "\" spaced folder\"", "test"});
  table.set({"data", "plain.latents, \"a, b.latents\",c #d|e", "test"});
  TrainConfig again;
  OptionTable other;
  declare(other, again);
  other.set(read_config_file(write(table.echo(true))));
  EXPECT_EQ(table.echo(), other.echo());
  EXPECT_EQ(again.caption.template_text, "say \"hi\" # | \\ ; end");
  EXPECT_EQ(again.hypernetwork.layer_structure, (std::vector<double>{1, 2, 4, 2, 1}));
  EXPECT_EQ(again.sample.prompts, (std::vector<std::string>{"a cat", "a | b", "dog"}));
  EXPECT_EQ(again.output, " spaced folder");
  EXPECT_EQ(again.data.paths, (std::vector<std::filesystem::path>{"plain.latents", "a, b.latents", "c #d|e"}));
}

TEST_F(ConfigFile, BadFilesAreNamed) {
  EXPECT_NE(message_of([] { read_config_file("/no/such.cfg"); }).find("no such config file"), std::string::npos);
  EXPECT_NE(message_of([] { read_config_file("/tmp"); }).find("folder"), std::string::npos);
  EXPECT_NE(message_of([&] { read_config_file(write("nonsense without equals\n")); }).find(file_.string()),
            std::string::npos);
}

TEST(OptionTable, ListsOfPaths) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  EXPECT_TRUE(config.data.empty());
  table.set({"data", "one.latents", "test"});
  EXPECT_EQ(config.data, PathList(std::filesystem::path("one.latents")));
  EXPECT_EQ(config.data.string(), "one.latents");
  table.set({"data", "", "test"});
  EXPECT_TRUE(config.data.empty());
  EXPECT_NE(message_of([&] { table.set({"data", "a,,b", "test"}); }).find("separated by commas"), std::string::npos);
}

TEST(OptionTable, UnknownOptionNamesTheNearest) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  EXPECT_NE(message_of([&] {
              table.set({"optim.learning_rat", "1", "x.cfg"});
            }).find("'optim.learning_rate'"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              table.set({"learning_rate", "1", "x.cfg"});
            }).find("'optim.learning_rate'"),
            std::string::npos);
}

TEST(OptionTable, PeersNamesAreAnsweredWithOurs) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const char* peer : {"train.train_batch_size", "gradient_accumulation_steps", "network_dim", "snr_gamma"}) {
    EXPECT_NE(message_of([&] { table.set({peer, "1", "x"}); }).find("ldmtune calls it"), std::string::npos) << peer;
  }
}

TEST(OptionTable, BadValuesSayWhatWasExpected) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  const std::vector<std::pair<std::string, std::string>> bad{{"train.max_train_steps", "ten"},
                                                             {"train.max_train_steps", "99999999999999999999"},
                                                             {"train.seed", "-1"},
                                                             {"optim.adam_beta1", "nan"},
                                                             {"optim.adam_beta1", "0.9x"},
                                                             {"hypernetwork.layer_norm", "maybe"},
                                                             {"hypernetwork.layer_structure", "1,two,1"},
                                                             {"train.max_train_steps", ""},
                                                             {"base", std::string("a\nb")}};
  for (const auto& [name, text] : bad) {
    const std::string message = message_of([&] { table.set({name, text, "job.cfg"}); });
    EXPECT_NE(message.find("expected"), std::string::npos) << name << " = " << text << ": " << message;
    EXPECT_NE(message.find("job.cfg"), std::string::npos) << message;
  }
}

TEST(MethodDefaults, ReachOptionsThatNobodySet) {
  for (const std::string method : {"hypernetwork", "textual_inversion"}) {
    TrainConfig config;
    OptionTable table;
    declare(table, config);
    table.set({"method", method, "test"});
    table.set({"optim.adam_weight_decay", "0.25", "test"});
    apply_method_defaults(table, config);
    EXPECT_EQ(config.optim.learning_rate, method == "hypernetwork" ? "1e-4" : "5e-3");
    EXPECT_EQ(config.optim.adam_weight_decay, 0.25) << "as set";
    EXPECT_FALSE(table.is_set("optim.learning_rate"));
  }
}

TEST(MethodDefaults, AreEchoedAsOptions) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  table.set({"method", "textual_inversion", "test"});
  apply_method_defaults(table, config);
  EXPECT_NE(table.echo().find("learning_rate = 5e-3\n"), std::string::npos) << table.echo();
  EXPECT_NE(table.echo().find("adam_weight_decay = 0\n"), std::string::npos) << table.echo();
}

TEST(CommandLine, NamesValuesFlagsAndPositionals) {
  const CommandLine line =
      parse_command_line({"plan", "--config", "a.cfg", "--train.seed=5", "--skip_bad", "--random_flip"});
  EXPECT_EQ(line.positional, (std::vector<std::string>{"plan"}));
  ASSERT_EQ(line.settings.size(), 4u);
  EXPECT_EQ(line.settings[0].text, "a.cfg");
  EXPECT_EQ(line.settings[1].text, "5");
  EXPECT_EQ(line.settings[2].text, "true");
}

TEST(SplitList, QuotedSeparatorsStay) {
  EXPECT_EQ(split_list("1,2,1 | \"a | b\" |c", '|'), (std::vector<std::string>{"1,2,1", "a | b", "c"}));
  EXPECT_TRUE(split_list("  ", '|').empty());
}

TEST(FormatNumber, ReadsBackExactly) {
  for (const double value : {0.1, 1e-8, 1.0 / 3, 2e-3, 1e300, 5.0}) EXPECT_EQ(std::stod(format_number(value)), value);
}

TEST(Help, EveryOptionIsExplained) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  const std::string help = table.help();
  for (const std::string& name : table.names()) EXPECT_NE(help.find("--" + name), std::string::npos) << name;
}

}  // namespace
}  // namespace ldmtune
