import pytest
from ldmtune_analysis.search_space import Range, quoted, read_search_space, split_list, unquoted


def space_of(tmp_path, text, *overrides):
    file = tmp_path / "x.sweep.cfg"
    file.write_text(text)
    return read_search_space(file, list(overrides))


def test_ranges_in_the_syntax_of_sweep_files(tmp_path):
    space = space_of(
        tmp_path,
        """
base = some/base   # a comment
[optim]
learning_rate = log_uniform(1e-4, 1e-2)
adam_weight_decay = uniform(0, 0.1)  # another
[hypernetwork]
layer_structure = choice(1,2,1; 1,2,2,1)
layer_norm = false | true
[train]
global_batch_size = integer(1.2, 8)
[sample]
prompts = a cat | a dog
[sweep]
output = "runs/with # in it"
seeds = 0,1
""",
    )
    assert space.ranges == {
        "optim.learning_rate": Range("log_uniform", 1e-4, 1e-2),
        "optim.adam_weight_decay": Range("uniform", 0.0, 0.1),
        "hypernetwork.layer_structure": Range("choice", values=("1,2,1", "1,2,2,1")),
        "hypernetwork.layer_norm": Range("choice", values=("false", "true")),
        "train.global_batch_size": Range("integer", 2.0, 8.0),
    }
    assert space.fixed["base"] == "some/base" and space.fixed["sample.prompts"] == "a cat | a dog"
    assert unquoted(space.fixed["sweep.output"]) == "runs/with # in it"


def test_a_later_setting_and_the_command_line_win(tmp_path):
    text = "[a]\nb = 1 | 2\n[a]\nb = 3 | 4\nc = 5 | 6\n"
    space = space_of(tmp_path, text, ("a.c", "7"))
    assert space.ranges == {"a.b": Range("choice", values=("3", "4"))} and space.fixed == {"a.c": "7"}


def test_quoted_values_are_values(tmp_path):
    space = space_of(tmp_path, '[a]\nb = "uniform(1, 2)"\nc = "x | y"\nd = "x | y" | z\n')
    assert space.ranges == {"a.d": Range("choice", values=("x | y", "z"))}


@pytest.mark.parametrize("text", ['x "y" \\', "a | b", "#", " blank ", "a;b", "plain"])
def test_quotes_come_back(text):
    assert unquoted(quoted(text)) == text
    assert split_list(quoted(text) + "|" + quoted(text), "|") == [text, text]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("log_uniform(0, 1)", "above 0"),
        ("uniform(2, 1)", "lowest, highest"),
        ("integer(1.2, 1.9)", "lowest, highest"),
        ("uniform(1, x)", "lowest, highest"),
        ("choice(1)", "choice"),
        ("a | b | a", "twice"),
        ("(1 | 2) if method = lora | 3 if method = dreambooth", "sweep.conditions"),
    ],
)
def test_bad_ranges_name_the_option(tmp_path, value, said):
    with pytest.raises(ValueError, match="optim.learning_rate.*" + said):
        space_of(tmp_path, f"[optim]\nlearning_rate = {value}\n")
