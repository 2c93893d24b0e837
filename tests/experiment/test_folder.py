import json
import math
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MANUAL, events, read_csv, same_bits
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from torchgd import Trajectory
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import UPDATES, Experiment
from torchgd.experiment.files import new_directory, read_json, write_json
from torchgd.experiment.folder import RunWriter
from torchgd.experiment.outcome import Hooks, run_update
from torchgd.experiment.report import config_json, result_json


def written(directory: Path, dtype: str, **changes: Any) -> tuple[Trajectory, dict[str, Any]]:
    experiment = Experiment(Configuration(dtype=dtype, **changes))
    config = config_json(experiment, "manual")
    with RunWriter(directory, config, list(config["initial"])) as writer:
        outcome = run_update(experiment, "manual", hooks=Hooks(writer.record))
        writer.finish(result_json(experiment, outcome))
    return outcome.trajectory, config


@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_trajectory_csv_keeps_every_bit(tmp_path: Path, dtype_name: str) -> None:
    t, _ = written(tmp_path / "run", dtype_name, model="quadratic", epochs=3)
    head, rows = read_csv(tmp_path / "run" / "trajectory.csv")
    assert head == ["step", "epoch", "loss", "weight/w2", "weight/w1", "weight/b",
                    "gradient/w2", "gradient/w1", "gradient/b"]  # fmt: skip
    assert [int(row[0]) for row in rows] == t.step.tolist() == list(range(64))
    assert [int(row[1]) for row in rows] == t.epoch.tolist()
    columns = [t.loss, *t.weights.values(), *t.gradients.values()]
    for column, texts in zip(columns, list(zip(*rows, strict=True))[2:], strict=True):
        back = torch.tensor([float(text) for text in texts if text], dtype=t.loss.dtype)
        assert same_bits(back, column)
    assert rows[-1][2] == rows[-1][6] == ""


def test_events_hold_the_same_points(tmp_path: Path) -> None:
    t, _ = written(tmp_path / "run", "float64")
    single = {
        tag: torch.tensor([v for _, v in points])
        for tag, points in events(tmp_path / "run").items()
    }
    assert set(single) == {"loss", "weight/w", "gradient/w", "result/loss", "result/w"}
    assert same_bits(single["loss"], t.loss.float())
    assert same_bits(single["weight/w"], t.weights["w"].float())
    assert same_bits(single["gradient/w"], t.gradients["w"].float())
    steps = {tag: [step for step, _ in points] for tag, points in events(tmp_path / "run").items()}
    assert steps["weight/w"] == t.step.tolist()
    assert steps["loss"] == steps["gradient/w"] == t.step.tolist()[:-1]


def test_one_event_a_step_holds_all_of_its_values(tmp_path: Path) -> None:
    t, _ = written(tmp_path / "run", "float64", model="quadratic", epochs=2)
    (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    counts = [
        len(event.summary.value)
        for event in EventFileLoader(str(file)).Load()
        if event.summary.value
        and event.summary.value[0].metadata.plugin_data.plugin_name == "scalars"
    ]
    assert counts == [7] * len(t.loss) + [3, 4]


def test_config_and_hyperparameters_are_in_the_run_itself(tmp_path: Path) -> None:
    _, config = written(tmp_path / "run", "float64")
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8")) == config
    assert {"torch", "numpy", "python", "torchgd", "device_name", "threads"} <= set(config)
    (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    plugins = {value.tag: value.metadata.plugin_data.plugin_name for value in values}
    assert plugins["config/text_summary"] == "text"
    hparams = {tag for tag, plugin in plugins.items() if plugin == "hparams"}
    assert hparams == {f"_hparams_/{part}" for part in
                       ("experiment", "session_start_info", "session_end_info")}  # fmt: skip
    (text,) = [v.tensor.string_val[0].decode() for v in values if v.tag == "config/text_summary"]
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```")) == config
    assert plugins["custom_scalars__config__"] == "custom_scalars"
    assert sorted(os.listdir(tmp_path / "run"))[:2] == [".lock", "config.json"]
    assert not any(path.is_dir() for path in (tmp_path / "run").iterdir())


def test_config_is_everything_needed_to_run_it_again(tmp_path: Path) -> None:
    """Rebuilt from config.json alone, the run has the same bits."""
    wanted = {"model": "quadratic", "data": "cars", "standardize": True, "lr": "auto",
              "batch_size": "full", "shuffle": True, "epochs": 7}  # fmt: skip
    t, config = written(tmp_path / "run", "float64", **wanted)
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    again = run_update(Experiment(Configuration.from_config(saved)), "manual").trajectory
    assert all(same_bits(t.weights[name], again.weights[name]) for name in t.weights)
    assert config["lr"] == pytest.approx(0.29215397910948837, rel=1e-12)


def test_result_json(tmp_path: Path) -> None:
    written(tmp_path / "run", "float64")
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result.pop("seconds") > 0
    assert result == {
        "update": "manual", "model": "linear", "data": "lesson", "device": "cpu",
        "dtype": "float64", "steps": 150, "epochs": 50, "stopped": "finished",
        "parameters": {"w": 1.999999723695619},
        "loss": pytest.approx((1.999999723695619 - 2) ** 2 * 14 / 3, rel=1e-9),
    }  # fmt: skip


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


def test_everything_recorded_is_on_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    """When a block has been handed over, a reader finds all of its rows and events."""
    experiment = Experiment(Configuration(epochs=1000))
    config = config_json(experiment, "manual")
    seen = []
    with RunWriter(tmp_path / "run", config, ["w"]) as writer:

        def look(piece: Trajectory) -> None:
            writer.record(piece)
            _, rows = read_csv(tmp_path / "run" / "trajectory.csv")
            last = int(piece.step[-1])
            seen.append(last)
            assert int(rows[-1][0]) == events(tmp_path / "run")["weight/w"][-1][0] == last

        run_update(experiment, "manual", hooks=Hooks(look))
    assert len(seen) >= 3  # or more, where a thousand steps take over a second
    assert seen[-1] == 3000


def test_what_was_recorded_stays_when_the_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, (gradient, make) = Experiment(Configuration()), MANUAL
    config = config_json(experiment, "manual")

    def failing(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.item() == 3:
            raise RuntimeError("the third sample")
        return gradient(model, x, y)

    monkeypatch.setitem(UPDATES, "manual", (failing, make))
    writer = RunWriter(tmp_path / "run", config, ["w"])
    with writer, pytest.raises(RuntimeError, match="the third sample"):
        run_update(experiment, "manual", hooks=Hooks(writer.record))
    _, rows = read_csv(tmp_path / "run" / "trajectory.csv")
    assert [row[0] for row in rows] == ["0", "1"]
    assert [step for step, _ in events(tmp_path / "run")["loss"]] == [0, 1]


def test_a_writer_that_fails_is_not_called_again() -> None:
    calls = []

    def full(piece: Trajectory) -> None:
        calls.append(piece)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_update(Experiment(Configuration(epochs=500)), "manual", hooks=Hooks(full))
    assert len(calls) == 1


def test_values_beyond_single_precision_are_left_out_of_tensorboard_and_a_text_says_so(
    tmp_path: Path,
) -> None:
    """In trajectory.csv they are; and where float64 ends, so it does there."""
    t, _ = written(tmp_path / "run", "float64", lr=30.0, epochs=100)
    single = torch.finfo(torch.float32).max
    shown = [(step, value) for step, value in zip(t.step.tolist(), t.loss.tolist(), strict=False)
             if value <= single]  # fmt: skip
    assert len(shown) < len(t.loss)
    found = events(tmp_path / "run")["loss"]
    assert [step for step, _ in found] == [step for step, _ in shown]
    assert [value for _, value in found] == pytest.approx([value for _, value in shown])
    (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    texts = [v.tensor.string_val[0].decode() for event in EventFileLoader(str(file)).Load()
             for v in event.summary.value if v.tag == "beyond/text_summary"]  # fmt: skip
    first = shown[-1][0] + 1
    assert texts == [
        f"From step {first} on loss is beyond single precision, which is all that TensorBoard "
        "keeps; trajectory.csv has it."
    ]


FILES = {"manual/config.json": {"lr": 0.01}}


def test_a_directory_is_never_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20300101-000000")
    parent = tmp_path / "some" / "runs"
    names = [new_directory(parent, None, "linear-lesson", FILES).name for _ in range(3)]
    stem = "linear-lesson-20300101-000000"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert new_directory(parent, "mine", "linear-lesson", FILES) == parent / "mine"
    with pytest.raises(ValueError, match="mine exists, and no run is overwritten; name another$"):
        new_directory(parent, "mine", "linear-lesson", FILES)
    (parent / "empty").mkdir()  # holds nothing that could be lost
    assert new_directory(parent, "empty", "linear-lesson", FILES) == parent / "empty"
    for name in [*names, "mine", "empty"]:
        assert read_json(parent / name / "manual" / "config.json") == {"lr": 0.01}
    assert sorted(path.name for path in parent.iterdir()) == sorted([*names, "mine", "empty"])


@pytest.mark.parametrize("name", ["a/b", "..", "", ".", "/"])
def test_a_name_is_a_directorys_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^name '.*': give a directory's name alone"):
        new_directory(tmp_path / "runs", name, "x", FILES)
    assert not any(tmp_path.iterdir())


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
