import json
import math
import os
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import carry_out, events, read_csv, same_bits
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from torchgd import Trajectory
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.files import new_directory, read_json, write_json
from torchgd.experiment.folder import read_result, read_run
from torchgd.experiment.run import outcome_of
from torchgd.experiment.runs import new_runs
from torchgd.proof.compare import compare


def written(folder: Path, **asked: Any) -> tuple[Path, Trajectory]:
    """Carry out a run by hand; return its directory and its path."""
    runs = new_runs([Configuration(**asked)], folder, "run")
    return folder / "run" / "manual", carry_out(runs).trajectory


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trajectory_csv_keeps_every_bit(tmp_path: Path, dtype: str) -> None:
    run, t = written(tmp_path, dtype=dtype, model="quadratic", epochs=3)
    head, rows = read_csv(run / "trajectory.csv")
    assert head == ["step", "epoch", "loss", "weight/w2", "weight/w1", "weight/b",
                    "gradient/w2", "gradient/w1", "gradient/b"]  # fmt: skip
    assert [int(row[0]) for row in rows] == t.step.tolist() == list(range(64))
    assert [int(row[1]) for row in rows] == t.epoch.tolist()
    columns = [t.loss, *t.weights.values(), *t.gradients.values()]
    for column, texts in zip(columns, list(zip(*rows, strict=True))[2:], strict=True):
        back = torch.tensor([float(text) for text in texts if text], dtype=t.loss.dtype)
        assert same_bits(back, column)
    assert rows[-1][2] == rows[-1][6] == ""


def test_trajectory_csv_keeps_the_step_that_diverged(tmp_path: Path) -> None:
    """With its loss and gradients, so that two runs part in the files where they do in memory."""
    run, t = written(tmp_path, lr=1.0, epochs=100)
    assert t.stopped == "diverged"
    read = read_run(run)[1]
    assert read.table[-1, 0] == math.inf
    assert torch.equal(read.table, t.table)
    assert torch.equal(read.step, t.step)
    other = replace(read, table=read.table.clone())
    other.table[-1, -1] = 1.0
    assert not compare(read, other).identical


def test_events_hold_the_same_points(tmp_path: Path) -> None:
    run, t = written(tmp_path)
    single = {tag: torch.tensor([v for _, v in points]) for tag, points in events(run).items()}
    assert set(single) == {"loss", "weight/w", "gradient/w", "result/loss", "result/w"}
    assert same_bits(single["loss"], t.loss.float())
    assert same_bits(single["weight/w"], t.weights["w"].float())
    assert same_bits(single["gradient/w"], t.gradients["w"].float())
    steps = {tag: [step for step, _ in points] for tag, points in events(run).items()}
    assert steps["weight/w"] == t.step.tolist()
    assert steps["loss"] == steps["gradient/w"] == t.step.tolist()[:-1]


def values_of(run: Path) -> list[list[Any]]:
    """All that the events of a run say, an event at a time."""
    (file,) = run.glob("events.out.tfevents.*")
    return [[*event.summary.value] for event in EventFileLoader(str(file)).Load()]


def test_one_event_a_step_holds_all_of_its_values(tmp_path: Path) -> None:
    run, t = written(tmp_path, model="quadratic", epochs=2)
    counts = [
        len(values)
        for values in values_of(run)
        if values and values[0].metadata.plugin_data.plugin_name == "scalars"
    ]
    assert counts == [7] * len(t.loss) + [3, 4]


def test_config_and_hyperparameters_are_in_the_run_itself(tmp_path: Path) -> None:
    run, _ = written(tmp_path)
    config = read_json(run / "config.json")
    assert {"torch", "numpy", "python", "torchgd", "device_name", "threads"} <= set(config)
    values = [value for values in values_of(run) for value in values]
    plugins = {value.tag: value.metadata.plugin_data.plugin_name for value in values}
    assert plugins["config/text_summary"] == "text"
    hparams = {tag for tag, plugin in plugins.items() if plugin == "hparams"}
    assert hparams == {f"_hparams_/{part}" for part in
                       ("experiment", "session_start_info", "session_end_info")}  # fmt: skip
    (text,) = [v.tensor.string_val[0].decode() for v in values if v.tag == "config/text_summary"]
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```")) == config
    assert plugins["custom_scalars__config__"] == "custom_scalars"
    (plugin,) = [v.metadata.plugin_data for v in values if v.tag == "_hparams_/experiment"]
    told = HParamsPluginData.FromString(plugin.content).experiment.hparam_infos
    assert {info.name for info in told if info.differs} == {
        "lr",
        "update",
        "batch_size",
        "momentum",
    }
    (events_file,) = {path.name for path in run.iterdir()} - {
        ".lock", "config.json", "result.json", "run.pt", "trajectory.csv"
    }  # fmt: skip
    assert events_file.startswith("events.out.tfevents.")


def test_config_is_everything_needed_to_run_it_again(tmp_path: Path) -> None:
    """Rebuilt from config.json alone, the run has the same bits."""
    run, t = written(tmp_path, model="quadratic", data="cars", standardize=True, lr="auto",
                     batch_size="full", shuffle=True, epochs=7)  # fmt: skip
    config = read_json(run / "config.json")
    again = outcome_of(Configuration.from_config(config)).trajectory
    assert all(same_bits(t.weights[name], again.weights[name]) for name in t.weights)
    assert config["lr"] == pytest.approx(0.29215397910948837, rel=1e-12)


def test_result_json(tmp_path: Path) -> None:
    result = read_result(written(tmp_path, device="cpu")[0])
    assert result.pop("seconds") > 0
    assert result == {
        "update": "manual", "model": "linear", "data": "lesson", "device": "cpu",
        "dtype": "float64", "steps": 150, "epochs": 50, "stopped": "finished",
        "parameters": {"w": 1.999999723695619},
        "loss": pytest.approx((1.999999723695619 - 2) ** 2 * 14 / 3, rel=1e-9),
    }  # fmt: skip


@pytest.mark.parametrize("read", [read_run, read_result])
def test_a_run_that_has_not_stopped_says_so(tmp_path: Path, read: Any) -> None:
    message = "the run is still being written, or was killed; wait for its end, or go on with it: "
    with new_runs([Configuration()], tmp_path, "run"), pytest.raises(ValueError, match=message):
        read(tmp_path / "run" / "manual")


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    """JSON has no NaN: strict readers refuse what Python's writer makes of it by default."""
    write_json(tmp_path / "a.json", {"a": math.nan, "b": {"c": -math.inf, "d": 1.0}, "e": True})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": {"c": None, "d": 1.0},
        "e": True,
    }
    assert os.listdir(tmp_path) == ["a.json"]


def test_everything_recorded_is_in_the_events_while_the_run_goes_on(tmp_path: Path) -> None:
    """When a block has been handed over, TensorBoard finds all of it; the table is of the end."""
    run, seen = tmp_path / "run" / "manual", []

    def look(piece: Trajectory) -> None:
        seen.append(int(piece.step[-1]))
        assert events(run)["weight/w"][-1][0] == seen[-1]
        assert not (run / "trajectory.csv").exists()

    carry_out(new_runs([Configuration(epochs=1000)], tmp_path, "run"), on_piece=look)
    assert len(seen) >= 3  # or more, where a thousand steps take over a second
    assert seen[-1] == 3000
    assert len(read_csv(run / "trajectory.csv")[1]) == 3001


def test_a_writer_that_fails_is_not_called_again(tmp_path: Path) -> None:
    calls = []

    def full(piece: Trajectory) -> None:
        calls.append(piece)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        carry_out(new_runs([Configuration(epochs=500)], tmp_path, "run"), on_piece=full)
    assert len(calls) == 1


def test_values_beyond_single_precision_are_left_out_of_tensorboard_and_a_text_says_so(
    tmp_path: Path,
) -> None:
    """In trajectory.csv they are; and where float64 ends, so it does there."""
    run, t = written(tmp_path, lr=30.0, epochs=100)
    single = torch.finfo(torch.float32).max
    shown = [(step, value) for step, value in zip(t.step.tolist(), t.loss.tolist(), strict=False)
             if value <= single]  # fmt: skip
    assert len(shown) < len(t.loss)
    assert read_run(run)[1].loss[-1] == t.loss[-1]
    found = events(run)["loss"]
    assert [step for step, _ in found] == [step for step, _ in shown]
    assert [value for _, value in found] == pytest.approx([value for _, value in shown])
    texts = [v.tensor.string_val[0].decode() for values in values_of(run) for v in values
             if v.tag == "beyond/text_summary"]  # fmt: skip
    first = shown[-1][0] + 1
    assert texts == [
        f"From step {first} on loss is beyond single precision, which is all that TensorBoard "
        "keeps; trajectory.csv has it."
    ]


FILES = {"manual/config.json": {"lr": 0.01}}


def test_a_directory_is_never_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20300101-000000")
    parent = tmp_path / "some" / "runs"
    names = [new_directory(parent, None, "linear-lesson", FILES).name for _ in range(4)]
    stem = "linear-lesson-20300101-000000"
    assert names == ["linear-lesson", stem, f"{stem}-2", f"{stem}-3"]
    assert new_directory(parent, "mine", "linear-lesson", FILES) == parent / "mine"
    with pytest.raises(ValueError, match="mine exists, and no run is overwritten; name another$"):
        new_directory(parent, "mine", "linear-lesson", FILES)
    (parent / "empty").mkdir()  # holds nothing that could be lost
    assert new_directory(parent, "empty", "linear-lesson", FILES) == parent / "empty"
    for name in [*names, "mine", "empty"]:
        assert read_json(parent / name / "manual" / "config.json") == {"lr": 0.01}
    assert sorted(path.name for path in parent.iterdir()) == sorted([*names, "mine", "empty"])


def test_contents_are_on_the_disk_before_their_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that fails may keep an empty file by that name, or neither."""
    done: list[object] = []

    def noted(name: str, real: Any) -> Any:
        def call(first: Any, *rest: Any) -> None:
            done.append(os.fstat(first).st_ino if name == "fsync" else name)
            real(first, *rest)

        return call

    for name in ("fsync", "replace", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_json(tmp_path / "a.json", {})
    file, folder = ((tmp_path / name).stat().st_ino for name in ("a.json", "."))
    assert done == [file, "replace", folder]
    done.clear()
    run = new_directory(tmp_path, "mine", "linear-lesson", FILES) / "manual"
    file, inside = ((run / name).stat().st_ino for name in ("config.json", "."))
    above = run.parent.stat().st_ino
    assert done == [file, "replace", inside, above, "rename", folder]


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.processes
def test_a_tensorboard_server_shows_both_runs_with_all_steps(server: tuple[str, Path]) -> None:
    address, runs = server
    deadline = time.monotonic() + 60
    while len(tags := get(f"{address}/data/plugin/scalars/tags")) < 2:
        assert time.monotonic() < deadline, tags
        time.sleep(0.2)
    assert set(tags) == {"lesson/manual", "lesson/autograd"}
    for update in ("manual", "autograd"):
        results = {"result/loss", "result/w"}
        assert set(tags[f"lesson/{update}"]) == {"loss", "weight/w", "gradient/w"} | results
        head, rows = read_csv(runs / "lesson" / update / "trajectory.csv")
        for column, tag in enumerate(head[2:], start=2):
            shown = get(f"{address}/data/plugin/scalars/scalars?run=lesson/{update}&tag={tag}")
            points = [(row[0], row[column]) for row in rows if row[column]]
            assert [point[1] for point in shown] == [int(step) for step, _ in points]
            single = torch.tensor([float(value) for _, value in points])
            assert same_bits(torch.tensor([point[2] for point in shown]), single)


@pytest.mark.processes
def test_a_tensorboard_server_shows_the_configuration(server: tuple[str, Path]) -> None:
    address, _ = server
    texts = get(f"{address}/data/plugin/text/tags")
    assert texts == {
        f"lesson/{update}": ["config/text_summary"] for update in ("manual", "autograd")
    }
