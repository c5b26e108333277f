#include "store/torch_file.h"

#include "store/files.h"
#include "store/zip_archive.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

/// A pickle of protocol 2 with this body.
std::string pickled(const std::string& body) { return "\x80\x02" + body + "."; }
std::string text(const std::string& value) { return "X" + little_endian(value.size(), 4) + value; }
std::string integer(std::int64_t value) { return "\x8a\x08" + little_endian(static_cast<std::uint64_t>(value), 8); }

/// A tensor of float storage "0" with `numel` elements.
std::string tensor(const std::string& numel, const std::string& offset, const std::string& size,
                   const std::string& stride) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" + text("0") +
         text("cpu") + numel + "tQ" + offset + size + stride + "\x89N" + "tR";
}

const std::string kFourFloats(16, '\0');

/// An archive as torch.save writes it, with a pickle of our choice and one storage.
void write_archive(const std::filesystem::path& file, const std::string& pickle,
                   const std::string& storage = kFourFloats, const std::map<std::string, std::string>& more = {}) {
  OutputFile out(file);
  ZipWriter zip(out);
  zip.add("archive/data.pkl", pickle);
  zip.add("archive/data/0", storage);
  for (const auto& [name, bytes] : more) zip.add(name, bytes);
  zip.finish();
}

PyValue read_pickle(const std::string& body) {
  const TemporaryFolder folder;
  write_archive(folder / "a.pt", pickled(body));
  return read_torch_file(folder / "a.pt");
}

void expect_pickle_refused(const std::string& body, const std::string& expected) {
  SCOPED_TRACE(expected);
  expect_input_error([&] { read_pickle(body); }, expected, "a.pt");
}

void expect_bytes_refused(const std::string& bytes, const std::string& expected) {
  const TemporaryFolder folder;
  write_bytes(folder / "bad.pt", bytes);
  expect_input_error([&] { read_torch_file(folder / "bad.pt"); }, expected, "bad.pt");
}

/// A hypernetwork in A1111's layout.
PyValue hypernetwork() {
  PyDict half_state, state;
  half_state.items = {{"linear.0.weight", at::randn({4, 3}).to(at::kHalf)},
                      {"linear.0.bias", at::randn({4}).to(at::kBFloat16)}};
  half_state.ordered = true;
  state.items = {{"w", at::arange(6, at::kFloat).reshape({2, 3}).t()},
                 {"empty", at::empty({0, 2})},
                 {"scalar", at::scalar_tensor(2.5)}};
  PyDict file;
  file.items = {{768, PyTuple{{half_state, state}}},
                {"step", std::int64_t{1} << 40},
                {"negative", -5},
                {"name", "ünïcode"},
                {"layer_structure", PyList{{1.0, 2.5, 1.0}}},
                {"activation_func", PyValue()},
                {"is_layer_norm", false},
                {"use_dropout", true},
                {"pair", PyTuple{}}};
  return file;
}

TEST(TorchFile, RoundTripsEveryKindOfValue) {
  const TemporaryFolder folder;
  write_torch_file(folder / "a.pt", hypernetwork());
  const PyValue value = read_torch_file(folder / "a.pt");
  const PyDict& file = *value.get_if<PyDict>();
  ASSERT_EQ(file.items.size(), 9u);
  EXPECT_FALSE(file.ordered);
  EXPECT_EQ(*file.find("step")->get_if<std::int64_t>(), std::int64_t{1} << 40);
  EXPECT_EQ(*file.find("negative")->get_if<std::int64_t>(), -5);
  EXPECT_EQ(*file.find("name")->get_if<std::string>(), "ünïcode");
  EXPECT_EQ(*file.find("layer_structure")->get_if<PyList>()->items[1].get_if<double>(), 2.5);
  EXPECT_TRUE(file.find("activation_func")->is_none());
  EXPECT_FALSE(*file.find("is_layer_norm")->get_if<bool>());
  EXPECT_TRUE(*file.find("use_dropout")->get_if<bool>());
  EXPECT_EQ(file.find("missing"), nullptr);
  const PyTuple& pair = *file.find(768)->get_if<PyTuple>();
  const PyDict& half_state = *pair.items[0].get_if<PyDict>();
  EXPECT_TRUE(half_state.ordered);
  EXPECT_EQ(half_state.find("linear.0.weight")->get_if<at::Tensor>()->scalar_type(), at::kHalf);
  const PyDict& state = *pair.items[1].get_if<PyDict>();
  EXPECT_TRUE(at::equal(*state.find("w")->get_if<at::Tensor>(), at::arange(6, at::kFloat).reshape({2, 3}).t()));
  EXPECT_EQ(state.find("empty")->get_if<at::Tensor>()->sizes(), at::IntArrayRef({0, 2}));
  EXPECT_EQ(state.find("scalar")->get_if<at::Tensor>()->item<float>(), 2.5f);
}

TEST(TorchFile, SameValueAndStemGiveTheSameBytes) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "b");
  const PyValue value = hypernetwork();
  write_torch_file(folder / "a.pt", value);
  write_torch_file(folder / "b" / "a.pt", value);
  EXPECT_EQ(read_bytes(folder / "a.pt"), read_bytes(folder / "b" / "a.pt"));
  EXPECT_EQ(read_bytes(folder / "a.pt").substr(30, 10), "a/data.pkl");
}

TEST(TorchFile, StorageBytesAreAlignedForMapping) {
  const TemporaryFolder folder;
  PyDict dict;
  dict.items = {{"a", at::full({3}, 7, at::kByte)}, {"b", at::full({100}, 9, at::kByte)}};
  write_torch_file(folder / "a.pt", dict);
  EXPECT_EQ(read_bytes(folder / "a.pt").find(std::string(3, '\7')) % 64, 0u);
  EXPECT_EQ(read_bytes(folder / "a.pt").find(std::string(100, '\11')) % 64, 0u);
}

TEST(TorchFile, ReadsViewsByStride) {
  const std::string size = integer(2) + integer(2) + "\x86", stride = integer(1) + integer(2) + "\x86";
  const TemporaryFolder folder;
  const at::Tensor storage = at::arange(4, at::kFloat);
  write_archive(folder / "a.pt", pickled(tensor(integer(4), integer(0), size, stride)),
                {static_cast<const char*>(storage.const_data_ptr()), 16});
  const PyValue value = read_torch_file(folder / "a.pt");
  EXPECT_TRUE(at::equal(*value.get_if<at::Tensor>(), storage.reshape({2, 2}).t()));
}

TEST(TorchFile, ReadsNewerOpcodesAndMemos) {
  // Protocol 4: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL.
  const std::string body = "\x95" + little_endian(40, 8) + "}\x94(\x8c\x01" + "a\x94" + "h\x01\x8c\x01" + "b" +
                           "\x8c\x0b" + "collections\x8c\x0bOrderedDict\x93)Ru";
  const PyValue value = read_pickle(body);
  const PyDict& dict = *value.get_if<PyDict>();
  EXPECT_EQ(*dict.find("a")->get_if<std::string>(), "a");
  EXPECT_TRUE(dict.find("b")->get_if<PyDict>()->ordered);
}

TEST(TorchFile, ListsFilledAfterTheyWereRememberedAreWhole) {
  const PyValue value = read_pickle(
      "(]q\x05"
      "K\x01"
      "ah\x05t");
  const PyTuple& pair = *value.get_if<PyTuple>();
  EXPECT_EQ(pair.items[0].get_if<PyList>()->items.size(), 1u);
  EXPECT_EQ(pair.items[1].get_if<PyList>()->items.size(), 1u);
}

TEST(TorchFile, ALaterEntryOfAKeyReplacesTheEarlier) {
  const PyValue value = read_pickle("}(" + text("k") + "K\x01" + text("k") + "K\x02u");
  ASSERT_EQ(value.get_if<PyDict>()->items.size(), 1u);
  EXPECT_EQ(*value.get_if<PyDict>()->find("k")->get_if<std::int64_t>(), 2);
}

TEST(TorchFile, ReadsParameterDictsAsTheirContents) {
  const std::string state = "}(" + text("training") + "\x88" + text("_parameters") + "ccollections\nOrderedDict\n)R(" +
                            text("*") + "ctorch._utils\n_rebuild_parameter\n(" +
                            tensor(integer(4), integer(0), integer(4) + "\x85", integer(1) + "\x85") + "\x88N" + "tR" +
                            "uu";
  const PyValue value = read_pickle("ctorch.nn.modules.container\nParameterDict\n)\x81" + state + "b");
  EXPECT_EQ(value.get_if<PyDict>()->find("*")->get_if<at::Tensor>()->numel(), 4);
}

TEST(TorchFileBadInput, NamesAndCallsThatCouldRunCode) {
  expect_pickle_refused("cos\nsystem\n(" + text("touch x") + "tR", "os.system");
  expect_pickle_refused("cbuiltins\neval\n(" + text("1") + "tR", "builtins.eval");
  expect_pickle_refused("\x8c\x05posix\x8c\x06system\x93(" + text("id") + "tR", "posix.system");
  expect_pickle_refused("ctorch\nload\n(" + text("x") + "tR", "torch.load");
  expect_pickle_refused("ctorch._utils\n_rebuild_tensor_v2\n)R", "storage, offset, size");
  expect_pickle_refused("ccollections\nOrderedDict\n(" + text("x") + "tR", "unexpected arguments");
  expect_pickle_refused(text("x") + ")R", "no allowed name");
  expect_pickle_refused("(ios\nsystem\n", "opcode 105");            // INST
  expect_pickle_refused("(cos\nsystem\no", "os.system");            // OBJ
  expect_pickle_refused("(ctorch\nSize\no", "opcode 111");          // OBJ
  expect_pickle_refused("}}b", "no OrderedDict or ParameterDict");  // BUILD
  expect_pickle_refused("\x82\x01", "opcode 130");                  // EXT1
  expect_pickle_refused("Pweights\n", "opcode 80");                 // PERSID
  expect_pickle_refused("(" + text("module") + "tQ", "persistent id");
  expect_pickle_refused("K\x01Q", "persistent id");
  expect_pickle_refused("ctorch\nFloatStorage\n", "class torch FloatStorage as a value");
}

TEST(TorchFileBadInput, LengthsMemosAndMarks) {
  expect_pickle_refused("\x8d" + little_endian(std::uint64_t{1} << 63, 8) + "x", "past its end");
  expect_pickle_refused("X" + little_endian(0xFFFFFFFF, 4) + "x", "past its end");
  expect_pickle_refused("Nr" + little_endian(std::uint64_t{1} << 31, 4), "memo index 2147483648");
  expect_pickle_refused("j" + little_endian(77, 4), "memo index 77, which is empty");
  expect_pickle_refused(std::string(1'000'000, '('), "more or less than one value");
  expect_pickle_refused(std::string(5'000'000, '('), "too many marks");
  expect_pickle_refused(std::string(4'100'000, 'N'), "more than 4000000 values");
  expect_pickle_refused("", "more or less than one value");
  expect_pickle_refused("0", "empty stack");
  expect_pickle_refused("t", "without its mark");
  expect_pickle_refused(
      "](K\x01"
      "0a",
      "empty stack");
  expect_pickle_refused("}(K\x01u", "a key without a value");
  expect_pickle_refused("}]K\x01s", "no plain value");
  expect_pickle_refused("\x8a\x0a" + std::string(10, '\1'), "an integer of 10 bytes");
  expect_pickle_refused("X" + little_endian(1, 4) + "\xff", "not UTF-8");
  expect_pickle_refused("\x80\x09N", "unknown protocol");
}

TEST(TorchFileBadInput, SelfReferencesDepthAndRepetition) {
  expect_pickle_refused("]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a", "inside themselves");
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "]";
  for (int i = 0; i < 99'999; ++i) nested += "a";
  expect_pickle_refused(nested, "200 deep");
  // Each list holds the one before ten times: 10^12 values from 100 bytes.
  std::string repeated = "]q" + std::string(1, '\0');
  for (char i = 1; i < 13; ++i) {
    repeated += "](";
    for (int k = 0; k < 10; ++k) repeated += std::string("h") + static_cast<char>(i - 1);
    repeated += std::string("eq") + i;
  }
  expect_pickle_refused("(" + repeated + "t", "by repetition");
}

TEST(TorchFileBadInput, TensorsThatDoNotFitTheirStorage) {
  const auto one = [](std::int64_t value) { return integer(value) + "\x85"; };
  const auto two = [](std::int64_t a, std::int64_t b) { return integer(a) + integer(b) + "\x86"; };
  expect_pickle_refused(tensor(integer(4), integer(0), one(5), one(1)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(1), one(4), one(1)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(-1), one(1), one(1)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(INT64_MAX), one(1), one(1)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(0), one(INT64_MAX), one(INT64_MAX)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(0), one(2), one(-1)), "negative or odd");
  expect_pickle_refused(tensor(integer(4), integer(0), one(-2), one(1)), "negative or odd");
  expect_pickle_refused(tensor(integer(4), integer(0), one(2), two(1, 1)), "past the storage's end");
  expect_pickle_refused(tensor(integer(4), integer(0), one(std::int64_t{1} << 40), one(0)), "larger than the storage");
  expect_pickle_refused(tensor(integer(-4), integer(0), one(1), one(1)), "persistent id");
  expect_pickle_refused(tensor(integer(5), integer(0), one(1), one(1)), "expected 5 elements");
  expect_pickle_refused(tensor(integer((std::int64_t{1} << 62) + 4), integer(0), one(1), one(1)), "found 16 bytes");
  expect_pickle_refused(
      "(" + tensor(integer(4), integer(0), one(1), one(1)) + tensor(integer(3), integer(0), one(1), one(1)) + "t",
      "two types or sizes");
}

TEST(TorchFileBadInput, OtherKindsOfFiles) {
  expect_bytes_refused("", "an empty file");
  expect_bytes_refused("7z\xBC\xAF\x27\x1C" + std::string(100, '\0'), "7z archive");
  expect_bytes_refused(std::string(257, 'x') + "ustar" + std::string(300, '\0'), "tar archive");
  expect_bytes_refused("\x80\x02}q\x01.", "another pickle");
  expect_bytes_refused(little_endian(2, 8) + "{}", "safetensors");
  expect_bytes_refused("PK\x03\x04 and nothing more", "no directory at its end");
  const TemporaryFolder folder;
  write_archive(folder / "script.pt", pickled("N"), kFourFloats, {{"archive/constants.pkl", "x"}});
  expect_input_error([&] { read_torch_file(folder / "script.pt"); }, "TorchScript", "script.pt");
  write_archive(folder / "big.pt", pickled("N"), kFourFloats, {{"archive/byteorder", "big"}});
  expect_input_error([&] { read_torch_file(folder / "big.pt"); }, "little-endian", "big.pt");
  write_archive(folder / "two.pt", pickled("N"), kFourFloats, {{"other/data.pkl", pickled("N")}});
  expect_input_error([&] { read_torch_file(folder / "two.pt"); }, "found two", "two.pt");
  write_archive(folder / "trailing.pt", pickled("N") + "more");
  expect_input_error([&] { read_torch_file(folder / "trailing.pt"); }, "bytes after it", "trailing.pt");
}

TEST(TorchFileBadInput, DamagedLegacyFiles) {
  const std::string start("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e\x80\x02\x4d\xe9\x03\x2e", 21);
  const std::string system = pickled("}" + text("little_endian") + "\x88s"),
                    big = pickled("}" + text("little_endian") + "\x89s");
  const std::string value = pickled(tensor(integer(4), integer(0), integer(4) + "\x85", integer(1) + "\x85"));
  const std::string keys = pickled("]" + text("0") + "a"), storage = little_endian(4, 8) + kFourFloats;
  const TemporaryFolder folder;
  write_bytes(folder / "good.pt", start + system + value + keys + storage);
  EXPECT_EQ(read_torch_file(folder / "good.pt").get_if<at::Tensor>()->numel(), 4);
  expect_bytes_refused(start + big + value + keys + storage, "little-endian");
  expect_bytes_refused(start + system + pickled("cos\nsystem\n(" + text("id") + "tR") + keys + storage, "os.system");
  expect_bytes_refused(start + system + value + pickled("]") + storage, "list of all storages");
  expect_bytes_refused(start + system + value + pickled("]" + text("1") + "a") + storage, "each storage once");
  expect_bytes_refused(start + system + value + keys + little_endian(5, 8) + kFourFloats, "sizes its pickle names");
  expect_bytes_refused(start + system + value + keys + storage + "x", "reach its end");
  const std::string whole = start + system + value + keys + storage;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(folder / "cut.pt", whole.substr(0, size));
    EXPECT_THROW(read_torch_file(folder / "cut.pt"), InputError) << size;
  }
}

/// With a right checksum around it, so that the interpreter itself meets the damage.
TEST(TorchFileBadInput, DamagedPicklesNeverCrash) {
  const TemporaryFolder folder;
  write_torch_file(folder / "a.pt", hypernetwork());
  const std::string whole = ZipReader(folder / "a.pt").read_text("a/data.pkl", 1 << 20);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x1D, 0x80}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      write_archive(folder / "b.pt", changed);
      try {
        read_torch_file(folder / "b.pt");
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  EXPECT_EQ(refused, 3 * whole.size());  // storages 1 to 4 are missing from this archive in any case
}

}  // namespace
}  // namespace ldmtune::store
