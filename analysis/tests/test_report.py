import re
from html.parser import HTMLParser

import pytest
from ldmtune_analysis import load_runs, load_sweep
from ldmtune_analysis.__main__ import main
from ldmtune_analysis.report import render
from synthetic import write_run, write_sweep

VOID = {"meta", "link", "img", "br", "line", "circle", "path", "use", "rect"}


class Balanced(HTMLParser):
    """Collects what the page loads, and fails where tags do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def page(sweep) -> str:
    text = render(sweep)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert all(load.startswith(("data:", "#")) for load in parser.loads), "the page loads something from outside"
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(parser.ids) == len(set(parser.ids)), "ids of several figures collide"
    assert "nan" not in re.sub(r"<[^>]*>|loss nan", "", text.split("<body>")[1]).lower().replace("finan", "")
    return text


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text.split("<body>")[1]))


def test_says_who_won_by_how_much_and_who_is_tied(tmp_path):
    said = words(page(load_sweep(write_sweep(tmp_path / "demo", [0.0660, 0.0750, 0.0661, 0.0760]))))
    assert (
        "1,2,1 · no layer norm did best: it cuts the held-out loss by 70%, from 0.2200 (untouched base) to 0.0660."
        in said
    )
    assert "1,2,4,2,1 · no layer norm is tied with it" in said
    assert "are clearly worse" in said
    assert "over 8 validation images" in said
    assert "On the test images, which chose nothing" in said


def test_a_clear_winner_has_no_tie(tmp_path):
    said = words(page(load_sweep(write_sweep(tmp_path / "demo", [0.06, 0.09]))))
    assert "clearly ahead of all others" in said and "tied with it" not in said


def test_says_when_nothing_helped(tmp_path):
    assert "Nothing helped" in words(page(load_sweep(write_sweep(tmp_path / "worse", [0.3, 0.4]))))
    said = words(page(load_sweep(write_sweep(tmp_path / "same", [0.2200], image_noise=0.02))))
    assert "cannot be told from the untouched base" in said


def test_seeds_show_their_spread(tmp_path):
    said = words(page(load_sweep(write_sweep(tmp_path / "demo", [0.066, 0.08], seeds=(0, 1, 2)))))
    assert "over 8 validation images and 3 seeds" in said
    assert re.search(r"0\.066\d ± 0\.00\d\d", said)
    assert "trials 0–2" in said


def test_pictures_stand_in_order_and_enlarged(tmp_path):
    text = page(load_sweep(write_sweep(tmp_path / "demo", [0.066, 0.08])))
    assert text.count("data:image/png;base64") == 8 * 5
    head = words("<body>" + text.split("class='pictures'")[1].split("</thead>")[0])
    order = [
        head.index(name)
        for name in ("untouched base", "no layer norm", "1,2,1 · layer norm", "real image", "VAE round trip")
    ]
    assert order == sorted(order)
    assert "image-rendering: pixelated" in text
    assert len(text) < 3_000_000


def test_forgetting_is_shown_as_loss_and_as_drift(tmp_path):
    text = page(load_sweep(write_sweep(tmp_path / "demo", [0.066, 0.08])))
    assert "adjacent<br>change" in text and "adjacent<br>drift" in text
    assert "+0.0100" in text and "0.00400" in text
    assert "difference from the base's prediction on adjacent concepts" in text.replace("&#x27;", "'")


def test_a_missing_picture_leaves_a_gap(tmp_path):
    folder = write_sweep(tmp_path / "demo", [0.066])
    (folder / "pictures" / "real" / "3.png").unlink()
    (folder / "pictures" / "base" / "2.png").write_bytes(b"no picture")
    assert page(load_sweep(folder)).count('class="missing"') == 2


def test_works_without_adjacent_pictures_test_and_best(tmp_path):
    text = page(
        load_sweep(write_sweep(tmp_path / "bare", [0.1], adjacent=False, pictures=False, best=False, test=False))
    )
    said = words(text)
    assert "No test images were measured" in said
    assert "adjacent concepts" not in said and "drift" not in said and "Concepts never trained on" not in said


def test_failures_are_listed_with_their_reason(tmp_path):
    text = page(load_sweep(write_sweep(tmp_path / "demo", [0.1, 0.2, 0.3], fail=(0, 2))))
    assert "loss nan &lt;not finite&gt;" in text
    assert "2 of 3 are not done" in words(text)


def test_configurations_that_lack_replicates_say_so(tmp_path):
    said = words(page(load_sweep(write_sweep(tmp_path / "demo", [0.066, 0.08], seeds=(0, 1, 2), fail=(1,)))))
    assert "trials 0, 2 · 2 of 3 done" in said and "trials 3–5 " in said.replace("0.08", " ")


def test_nothing_done_is_said(tmp_path):
    assert "No trial is done yet" in words(
        page(load_sweep(write_sweep(tmp_path / "demo", [0.1], fail=(0,), pictures=False)))
    )


def test_runs_of_different_data_are_not_ranked_silently(tmp_path):
    write_run(tmp_path / "a", 0.09)
    write_run(tmp_path / "b", 0.07)
    file = tmp_path / "b" / "result.json"
    file.write_text(file.read_text().replace("d" * 64, "e" * 64))
    assert "used different datasets" in words(page(load_runs([tmp_path / "a", tmp_path / "b"])))


def test_a_best_of_another_trial_is_noticed(tmp_path):
    folder = write_sweep(tmp_path / "demo", [0.066, 0.08])
    card = folder / "best.json"
    card.write_text(card.read_text().replace('"trial": 0', '"trial": 1'))
    assert "exported from another trial" in words(page(load_sweep(folder)))


def test_many_configurations_are_cut_with_a_word(tmp_path):
    said = words(page(load_sweep(write_sweep(tmp_path / "many", [0.06 + 0.01 * i for i in range(11)]))))
    assert "3 configurations of lower rank are left out" in said


def test_names_are_escaped(tmp_path):
    write_run(tmp_path / "<script>alert(1)", 0.09)
    assert "<script>alert" not in page(load_runs([tmp_path / "<script>alert(1)"]))


def test_single_runs_have_no_trial_numbers(tmp_path):
    write_run(tmp_path / "a", 0.09, seed=3)
    write_run(tmp_path / "b", 0.07, seed=4)
    said = words(page(load_runs([tmp_path / "a", tmp_path / "b"])))
    assert "bseed 4" in said and "trial 0" not in said


@pytest.mark.parametrize("command", ["report", "compare"])
def test_commands_write_one_file(tmp_path, capsys, command):
    folder = write_sweep(tmp_path / "demo", [0.066, 0.08])
    output = tmp_path / "out" / "page.html"
    sources = [folder] if command == "report" else sorted((folder / "trials").iterdir())
    assert main([command, *map(str, sources), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert [file.name for file in output.parent.iterdir()] == ["page.html"]


def test_a_folder_that_is_no_sweep_is_bad_input(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err
