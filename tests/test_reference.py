"""runs/reference, the lesson's own run in git, is what the lesson still gives."""

import re
from pathlib import Path

import plot
import pytest
import torch
import train
from helpers import ROOT, events, read_csv, same_bits

from torchgd.experiment.files import read_json

REFERENCE = ROOT / "runs" / "reference"
UPDATES = ("manual", "autograd")


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    words = ["--device", "cpu", "--no-figures", "--log-dir", str(folder), "--name", "reference"]
    assert train.main(words) == 0
    return folder / "reference"


@pytest.mark.parametrize("update", UPDATES)
def test_the_lesson_gives_the_committed_bits(again: Path, update: str) -> None:
    committed, new = (run / update for run in (REFERENCE, again))
    assert (committed / "trajectory.csv").read_bytes() == (new / "trajectory.csv").read_bytes()
    results = [read_json(run / "result.json") for run in (committed, new)]
    assert results[0].pop("seconds") > 0
    assert results[1].pop("seconds") > 0
    assert results[0] == results[1]


def test_the_comparison_is_the_committed_one(again: Path) -> None:
    texts = [(run / "comparison.json").read_text(encoding="utf-8") for run in (REFERENCE, again)]
    assert texts[0] == texts[1]
    assert read_json(REFERENCE / "comparison.json")["identical"]


def test_the_page_to_play_with_is_that_of_today(tmp_path: Path) -> None:
    """But for the length of torch's vectors, which is that of the machine that writes it."""
    words = [str(REFERENCE), "--format", "html", "--output", str(tmp_path)]
    assert plot.main(words) == 0
    texts = [(p / "lesson.html").read_text(encoding="utf-8") for p in (REFERENCE, tmp_path)]
    committed, made = (re.sub(r'"lanes": \d+', "", text) for text in texts)
    assert made == committed


@pytest.mark.parametrize("update", UPDATES)
def test_its_events_are_its_trajectory(update: str) -> None:
    head, rows = read_csv(REFERENCE / update / "trajectory.csv")
    shown = events(REFERENCE / update)
    for column, tag in enumerate(head[2:], start=2):
        expected = torch.tensor([float(row[column]) for row in rows if row[column]])
        assert same_bits(torch.tensor([value for _, value in shown[tag]]), expected)


def test_it_is_small_and_whole_and_speaks_of_no_machine() -> None:
    files = [path for path in REFERENCE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    drawn = {path.name for path in REFERENCE.glob("*.svg")}
    assert drawn == {"full-batch.svg", "loss.svg", "fit.svg", "curves.svg", "rates.svg"}
    for update in UPDATES:
        names = sorted(path.name for path in (REFERENCE / update).iterdir())
        assert names == [
            "config.json", f"events.out.tfevents.0.lesson.{update}", "result.json", "run.pt",
            "trajectory.csv",
        ]  # fmt: skip
        assert read_json(REFERENCE / update / "config.json")["working_directory"] is None
