import shutil
import struct

import pytest
from ldmtune_analysis.__main__ import main
from ldmtune_analysis.tensorboard import Follower, follow
from synthetic import write_run, write_sweep


class Recorder:
    """A writer that only remembers."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.numbers = folder, purge_step, []

    def add_scalar(self, tag, value, step):
        self.numbers.append((tag, step, value))

    def flush(self):
        pass

    def close(self):
        pass


def recording():
    writers = []

    def open_writer(folder, purge_step):
        writers.append(Recorder(folder, purge_step))
        return writers[-1]

    return writers, open_writer


def test_new_rows_are_written_once_and_half_lines_later(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,epoch,loss,lr,grad_norm,samples_per_s,seconds\n1,0,0.5,0.1,2,60,1\n2,0,0.4,0.1")
    writers, open_writer = recording()
    follower = Follower(tmp_path, open_writer=open_writer)
    assert follower.poll() == 4
    assert follower.poll() == 0
    with open(file, "a") as stream:
        stream.write(",2,60,2\n3,0,0.3,,2,60,3\n")
    assert follower.poll() == 7, "an empty field is no number"
    assert [step for tag, step, _ in writers[0].numbers if tag == "train/loss"] == [1, 2, 3]


def test_a_run_cut_back_by_a_resume_is_written_anew(tmp_path):
    head = "step,concept_train,concept_heldout,adjacent,heldout_q1,heldout_q2,heldout_q3,heldout_q4\n"
    file = tmp_path / "validation.csv"
    file.write_text(head + "0,,0.2,,,,,\n50,,0.1,,,,,\n")
    writers, open_writer = recording()
    follower = Follower(tmp_path, open_writer=open_writer)
    assert follower.poll() == 2
    file.write_text(head + "0,,0.2,,,,,\n50,,0.15,,,,,\n100,,0.1,,,,,\n")
    assert follower.poll() == 3
    assert writers[1].purge_step == 0, "what the first writer wrote is hidden"
    assert writers[1].numbers[1] == ("validation/heldout", 50, 0.15)


def test_trials_of_a_sweep_have_their_own_curves_and_new_ones_join(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [0.09], pictures=False)
    writers, open_writer = recording()
    follower = Follower(folder, open_writer=open_writer)
    follower.poll()
    write_run(folder / "trials" / "001-0000000a", 0.07)
    follower.poll()
    assert [writer.folder.name for writer in writers] == ["000-00000000", "001-0000000a"]
    tags = {tag for tag, _, _ in writers[0].numbers}
    assert {"train/loss", "validation/heldout", "validation/adjacent", "heldout_by_timestep/quarter_4"} <= tags


def records_of(file):
    """Payloads of an events file: length, checksum, payload, checksum."""
    raw, at, found = file.read_bytes(), 0, []
    while at < len(raw):
        (size,) = struct.unpack_from("<Q", raw, at)
        found.append(raw[at + 12 : at + 12 + size])
        at += 16 + size
    return found


def test_event_files_hold_the_numbers(tmp_path, capsys):
    write_run(tmp_path / "run", 0.07, steps=20)
    assert main(["tensorboard", str(tmp_path / "run"), "--once"]) == 0
    assert "numbers written" in capsys.readouterr().out
    (events,) = (tmp_path / "run" / "tensorboard" / "run").glob("events.out.tfevents.*")
    records = records_of(events)
    assert sum(b"train/loss" in record for record in records) == 20
    assert any(b"validation/heldout" in record for record in records)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        follow(tmp_path / "gone", once=True)


def test_a_folder_without_files_waits_in_peace(tmp_path):
    write_run(tmp_path / "run", 0.07, steps=20)
    writers, open_writer = recording()
    follower = Follower(tmp_path / "run", open_writer=open_writer)
    follower.poll()
    shutil.rmtree(tmp_path / "run")
    assert follower.poll() == 0
