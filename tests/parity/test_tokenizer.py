"""CLIPTokenizer against transformers' on thousands of texts and several tokenizer folders."""

import json
import os
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

TOOL = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "model_tokenizer_tool"
DATASETS = Path(os.environ["LDMTUNE_SOURCE"]) / "datasets"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"

# Letters, digits and cased characters that Unicode 15 to 17 added: the libraries' tables differ there.
NEWER = [
    (0x1C89, 0x1C8A), (0xA7CB, 0xA7DC), (0x105C0, 0x105F3), (0x10D40, 0x10D85), (0x10EC2, 0x10EC7),
    (0x1123F, 0x11241), (0x11380, 0x113E2), (0x116D0, 0x116E3), (0x11BC0, 0x11BF9), (0x11F00, 0x11F5A),
    (0x1342F, 0x143FA), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x16EA0, 0x16EB8), (0x18CFF, 0x18CFF),
    (0x1B132, 0x1B132), (0x1B155, 0x1B155), (0x1CC00, 0x1CEB3), (0x1D2C0, 0x1D2D3), (0x1DF25, 0x1DF2A),
    (0x1E030, 0x1E08F), (0x1E4D0, 0x1E4F9), (0x1E5D0, 0x1E5FA), (0x2B739, 0x2B739), (0x2EBF0, 0x2EE5D),
    (0x31350, 0x323AF),
]  # fmt: skip

BYTES = [chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]


def is_known(c: str) -> bool:
    return unicodedata.category(c) not in ("Cn", "Cs", "Co") and not any(a <= ord(c) <= b for a, b in NEWER)


def flagged(content: str, **more) -> dict:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **more}


def write_folder(folder: Path, merges: list[tuple[str, str]], config: dict | None, special_map: dict | None) -> Path:
    """A tokenizer folder as CLIP's is published: 256 bytes, the same at a word's end, merges, two special tokens."""
    folder.mkdir(parents=True)
    tokens = BYTES + [c + "</w>" for c in BYTES] + [a + b for a, b in merges] + [BOS, EOS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if special_map is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special_map))
    return folder


def trained_merges(count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding trained on captions, the names of characters, and some text of other scripts."""
    captions = [json.loads(line)["text"] for line in (DATASETS / "emoji/colour/metadata.jsonl").open(encoding="utf-8")]
    names = [unicodedata.name(chr(c), "").lower() for c in range(0x20, 0x3000)]
    scripts = ["".join(chr(c) for c in range(first, first + 40)).lower() for first in range(0xC0, 0x2000, 20)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=512 + count, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=BYTES
    )
    tokenizer.train_from_iterator(captions * 3 + names + scripts * 4, trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]][:count]


def random_merges(count: int) -> list[tuple[str, str]]:
    """Merges in random order, so that later ones make pairs of higher priority; the size of SD's vocabulary."""
    draw = random.Random(1)
    letters = [BYTES[b - 0x21] for b in b"abcdefghijklmnopqrstuvwxyz"]
    inner, merges, seen = BYTES + letters * 20, [], set(BYTES)
    while len(merges) < count:
        left, right = draw.choice(inner), draw.choice(inner)
        ends_word = len(right) == 1 and draw.random() < 0.3
        merged = left + right + ("</w>" if ends_word else "")
        if merged in seen or len(merged) > 16:
            continue
        seen.add(merged)
        merges.append((left, right + ("</w>" if ends_word else "")))
        if not ends_word:
            inner.append(merged)
    draw.shuffle(merges)
    return merges


PUBLISHED = Path(os.environ["LDMTUNE_SOURCE"]) / "tests" / "fixtures" / "sd15" / "tokenizer"
SD1_CONFIG = json.loads((PUBLISHED / "tokenizer_config.json").read_text())
SD1_MAP = json.loads((PUBLISHED / "special_tokens_map.json").read_text())
XL_CONFIG = {
    **SD1_CONFIG, "bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": "!",
    "added_tokens_decoder": {
        "0": flagged("!", special=True) | {"normalized": False}, "1512": flagged(BOS, special=True),
        "1513": flagged(EOS, special=True) | {"normalized": False},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    big, small = random_merges(48894), trained_merges(1000)
    folders = {
        "sd1": write_folder(root / "sd1", big, SD1_CONFIG, SD1_MAP),
        "sd2": write_folder(root / "sd2", trained_merges(6000), SD1_CONFIG, SD1_MAP | {"pad_token": "!"}),
        "sdxl": write_folder(root / "sdxl", small, XL_CONFIG, SD1_MAP),
        "bare": write_folder(root / "bare", small, None, None),
        "added": write_folder(root / "added", small, SD1_CONFIG, SD1_MAP),
        "emoji-base": DATASETS / "emoji-base" / "tokenizer",
    }
    (folders["added"] / "added_tokens.json").write_text(json.dumps({"<Cat Toy>": 1514, "sks": 1515, "<sksÀ>": 1516}))
    # transformers 5 saves nothing but tokenizer.json and tokenizer_config.json.
    folders["saved"] = root / "saved"
    CLIPTokenizer.from_pretrained(folders["sd2"]).save_pretrained(folders["saved"])
    assert not (folders["saved"] / "vocab.json").exists()
    return folders


def all_characters() -> list[str]:
    """Every assigned character alone and between letters."""
    known = [c for c in map(chr, range(1, 0x110000)) if is_known(c)]
    pieces = [f"{c} a{c}B" for c in known]
    return [" ".join(pieces[i : i + 100]) for i in range(0, len(pieces), 100)]


def fuzzed(count: int) -> list[str]:
    draw = random.Random(2)
    known = [c for c in map(chr, range(1, 0x30000)) if is_known(c)]
    marks = [c for c in known if unicodedata.combining(c)]
    cased = [c for c in known if c.lower() != c or c.upper() != c]
    fixed = [
        BOS, EOS, EOS.upper(), "<|StartOfText|>", "<|", "|>", "<cat toy>", "<Cat Toy>", "<Cat  Toy>", "sks", "SKS",
        "<SKSA\u0300>", "'s", "'LL", "'re", "'", "''", "’s", "!", "!!", "İ", "I\u0307", "ß", "ẞ", "Σς", "ΑΣ", "ǅ", "ﬁ",
        "Å", "\u212b", "A\u030a", "각", "\u1100\u1161\u11a8", "한국어", "日本語のテキスト", "漢字", "العَرَبِيَّة", "עִבְרִית",
        "हिन्दी", "ไทย", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "☕️", "1️⃣", "①", "½", "Ⅷ", "٣", "十", "\u200d", "\u200c", "\u200e",
        "\u200f", "\u202e", "\ufeff", "\u2060", "\u00ad", "\u180e", "\x01", "\x1c", "\x1f", "\x7f", "\x85", "\ufffd",
        "\ufffe", "\U0010ffff", "\ue000", "\ufdd0",
    ]  # fmt: skip
    blanks = list(" \t\n\v\f\xa0\u1680\u2003\u2028\u202f\u205f\u3000\x85") + ["  ", "\r\n"]
    letters, digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
    kinds = [known, marks, cased, fixed, blanks, letters, letters, letters, digits, [" "], '.,;:!?-_()[]"#$%&*@/\\']
    texts = []
    for _ in range(count):
        chosen = draw.sample(kinds, draw.randint(1, 6))
        texts.append("".join(draw.choice(draw.choice(chosen)) for _ in range(draw.randint(0, 60))))
    return texts


def long_texts() -> list[str]:
    draw = random.Random(3)
    letters = "".join(draw.choice("etaoinshrdlu") for _ in range(50_000))
    marks = "a" + "".join(draw.choice("\u0300\u0316\u0327\u0345") for _ in range(2_000))
    return [letters, letters.upper(), "a" * 60_000, "!" * 30_000, EOS * 5_000, " " * 50_000, "é" * 9_000, "👍" * 9_000,
            "word " * 20_000, marks, "'" * 999 + "s", "1" * 4_000, ""]  # fmt: skip


def captions() -> list[str]:
    texts = []
    for style in ("colour", "pencil"):
        for line in (DATASETS / "emoji" / style / "metadata.jsonl").open(encoding="utf-8"):
            texts.append(json.loads(line)["text"])
    return texts + [text.title() + ", 4k; it's \"art\"!" for text in texts[:300]]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return captions() + fuzzed(4000) + all_characters() + long_texts()


def run_tool(folder: Path, texts: list[str], length: int, chunks: int = 1, added: dict[str, int] = {}) -> dict:
    command = [TOOL, folder, str(length), str(chunks), *(str(word) for item in added.items() for word in item)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "bare", "added", "saved", "emoji-base"])
def test_same_tokens_as_transformers(folders, texts, name):
    theirs = CLIPTokenizer.from_pretrained(folders[name])
    length = 24 if name == "emoji-base" else 77
    ours = run_tool(folders[name], texts, length)
    assert (ours["bos"], ours["eos"], ours["pad"]) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours["vocab_size"] == len(theirs)
    assert ours["model_max_length"] == length
    if name != "bare":
        assert theirs.model_max_length == length
    plain = theirs(texts, add_special_tokens=False, padding=False, truncation=False)["input_ids"]
    padded = theirs(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
    assert len(texts) > 6000
    for text, mine, tokens, input_ids in zip(texts, ours["texts"], plain, padded, strict=True):
        assert mine["tokens"] == tokens, ascii(text[:200])
        assert mine["input_ids"] == input_ids, ascii(text[:200])
        assert mine["truncated"] == (len(tokens) > length - 2)


@pytest.mark.parametrize("name", ["sd1", "bare", "added", "emoji-base"])
def test_added_tokens_as_transformers(folders, name):
    added = {"<zorp>": 1, "Zörp": 3, "<zorp>-2": 2, "zo": 1} if name != "sd1" else {"<zorp>": 1, "Zörp": 3, "<zorp>-2": 2}
    theirs = CLIPTokenizer.from_pretrained(folders[name])
    for token, count in added.items():
        new = [token] + [f"{token}_{i}" for i in range(1, count)]
        assert theirs.add_tokens(new) == count
    draw = random.Random(4)
    pieces = ["<zorp>", "Zörp", "zo\u0308rp", "ZÖRP", "<ZORP>-2", "<zorp>-", "zo", "zorp", " ", " ", ", a cat", "x", EOS, "<", "é"]
    texts = ["".join(draw.choice(pieces) for _ in range(draw.randint(1, 12))) for _ in range(500)]
    ours = run_tool(folders[name], texts, 77, added=added)
    ids = {token: theirs.convert_tokens_to_ids([token] + [f"{token}_{i}" for i in range(1, n)]) for token, n in added.items()}
    first = {numbers[0]: numbers for numbers in ids.values()}
    for text, mine in zip(texts, ours["texts"], strict=True):
        plain = theirs(text, add_special_tokens=False)["input_ids"]
        assert mine["tokens"] == [i for token in plain for i in first.get(token, [token])], ascii(text)
    assert any(len(set(mine["tokens"]) & set(first)) > 2 for mine in ours["texts"])
    assert ours["sha256"] == run_tool(folders[name], [], 77)["sha256"]


def test_hash_is_the_contents_and_not_the_files(folders):
    hashes = {name: run_tool(folder, [], 77)["sha256"] for name, folder in folders.items()}
    assert hashes["saved"] == hashes["sd2"]
    assert len(set(hashes.values())) == len(hashes) - 1


def test_pad_token_of_stable_diffusion_2(folders):
    ours = run_tool(folders["sd2"], ["cat!"], 8)
    assert ours["pad"] == 0
    assert ours["texts"][0]["input_ids"][-1] == 0


def test_chunks_hold_the_tokens_in_order(folders):
    text = "one two three four five six seven eight nine ten"
    ours = run_tool(folders["sd1"], [text], 12, chunks=5)["texts"][0]
    assert len(ours["input_ids"]) == 60
    theirs = CLIPTokenizer.from_pretrained(folders["sd1"])
    inner = [i for i in ours["input_ids"] if i not in (theirs.bos_token_id, theirs.eos_token_id)]
    assert inner == ours["tokens"][:50]


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_cut_merges_are_refused(folders, tmp_path, cut):
    folder = shutil.copytree(folders["sd1"], tmp_path / "cut")
    merges = (folder / "merges.txt").read_bytes()
    (folder / "merges.txt").write_bytes(merges[: int(len(merges) * cut)])
    done = subprocess.run([TOOL, folder, "77", "1"], input="[]", capture_output=True, text=True)
    assert done.returncode == 2
    assert "merges.txt" in done.stderr
