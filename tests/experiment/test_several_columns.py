"""Tables of several columns, from the file to the results; what NIST certifies, and lstsq."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, carry_out
from torch import Tensor

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.digits import answer, shared, standard_errors, total_variance
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.report import headline, table
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import Run
from torchgd.experiment.runs import new_runs, resumed_runs
from torchgd.experiment.sources import chunk_rows, load
from torchgd.theory.exact import is_exact

STRD = json.loads((ROOT / "tests" / "data" / "strd.json").read_text(encoding="utf-8"))
POWERS = """
import torch

class Powers(torch.nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones({count}, device=device, dtype=dtype))

    def columns(self, x):
        return torch.stack([x**k for k in range({count})], dim=-1)

    def forward(self, x):
        return self.columns(x) @ self.w

    def partials(self, x):
        return {{"w": self.columns(x)}}
"""
HOUSES = """size (m²);rooms;age;price (€)
50;2;30;100
80;3;10;210
65;2;5;190
120;5;40;260
30;1;8;95
"""


def digits(value: float, certified: float) -> float:
    """How many digits a number has in common with a certified one: −log₁₀ of the relative error."""
    apart = abs(value - certified) / abs(certified)
    return 17 if apart == 0 else -math.log10(apart)


def resolved(**asked: Any) -> Experiment:
    return resolve(
        [Configuration(**{"device": "cpu", "batch_size": "full", "lr": 1e-30, **asked})]
    )[0]


def certified(name: str, folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """One of NIST's data sets, and what is certified of it; powers are a model file's columns."""
    facts = STRD[name]
    if "table" in facts:
        np.save(folder / f"{name}.npy", np.array(facts["table"]))
        return resolved(data=str(folder / f"{name}.npy"), bias=True, standardize=True), facts
    if "x" not in facts:
        model = {"model": "quadratic"} if "w2" in facts["standard_errors"] else {}
        bias = {"bias": True} if name == "norris" else {}
        return resolved(data=name, standardize=True, **model, **bias), facts
    np.save(folder / f"{name}.npy", np.array([facts["x"], facts["y"]]).T)
    (folder / "powers.py").write_text(POWERS.format(count=len(facts["certified"])))
    asked = {"data": str(folder / f"{name}.npy"), "model": str(folder / "powers.py") + ":Powers"}
    return resolved(**asked), facts


def values_of(facts: Any) -> list[float]:
    return list(facts.values()) if isinstance(facts, dict) else facts


@pytest.mark.parametrize(("name", "coefficients", "errors"), [
    # At least so many digits of each coefficient, and of the standard errors.
    ("norris", 15, 13), ("noint1", 14, 13), ("pontius", 14, 11), ("longley", 14, 10),
    ("wampler1", 9, 0), ("wampler2", 12, 0), ("wampler3", 9, 13), ("wampler4", 7, 13),
    ("wampler5", 5, 13), ("filip", 7, 7),
])  # fmt: skip
def test_least_squares_have_the_certified_digits(
    tmp_path: Path, name: str, coefficients: int, errors: int
) -> None:
    experiment, facts = certified(name, tmp_path)
    landscape, found = experiment.least_squares, answer(experiment)
    assert landscape is not None
    assert found is not None
    low, high = found[:, :-2]
    names = list(experiment.configuration.initial)
    known = facts.get("certified")
    if known is not None:
        exact = [known[n] for n in names] if isinstance(known, dict) else known
        for value, a, b in zip(exact, low.tolist(), high.tolist(), strict=True):
            assert digits((a + b) / 2, value) >= coefficients
            room = 1e-14 * abs(value)  # in which the certified number is rounded
            assert a - room <= value <= b + room
    its = facts["standard_errors"]
    expected = [its[n] for n in names] if isinstance(its, dict) else its
    minimum = found[:, -2].mean()
    spread = standard_errors(experiment, landscape, minimum.item())
    assert spread is not None
    for value, e, w in zip(spread.tolist(), expected, low.tolist(), strict=True):
        assert digits(value, e) >= errors if e else value < 1e-9 * abs(w)
    r_squared = 1 - minimum.item() / total_variance(landscape)
    known_to = 1e-10 if name == "filip" else 1e-13  # as its minimum is
    assert math.isclose(r_squared, facts["r_squared"], rel_tol=known_to)


def test_an_interval_says_how_many_digits_can_be_had(tmp_path: Path) -> None:
    """Of Filip, whose columns have the condition number 5·10⁹ once they are of one length."""
    experiment, facts = certified("filip", tmp_path)
    found = answer(experiment)
    assert found is not None
    counts = [shared(a, b, 17) for a, b in found[:, :-2].T.tolist()]
    assert min(counts) >= 3  # and 8 are right
    for count, (a, b), value in zip(counts, found.T.tolist(), facts["certified"], strict=False):
        assert digits((a + b) / 2, value) >= count - 1


def test_of_many_columns_a_chunk_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**29, 2**40))
    assert [chunk_rows(torch.device("cuda"), features) for features in (1, 9)] == [2**22, 2**20]


@pytest.mark.parametrize(("columns", "expected"), [
    ("size,rooms,age,price", [[50, 2, 30], [80, 3, 10]]),
    ("size (m²),age,price (€)", [[50, 30], [80, 10]]),
    ("3, 2,price", [[30, 2], [10, 3]]),
    ("rooms,price", [2, 3]),
])  # fmt: skip
def test_columns_by_name_and_number(tmp_path: Path, columns: str, expected: list[Any]) -> None:
    path = tmp_path / "houses.csv"
    path.write_text(HOUSES, encoding="utf-8")
    data = load(str(path), columns=columns)
    assert data.x[:2].tolist() == expected
    assert data.y.tolist() == [100, 210, 190, 260, 95]
    assert (data.y_name, data.y_unit) == ("price", "€")
    assert data.features == len(columns.split(",")) - 1
    np.save(tmp_path / "h.npy", torch.cat([data.x.reshape(5, -1), data.y[:, None]], dim=1).numpy())
    again = load(str(tmp_path / "h.npy"))
    assert torch.equal(again.x, data.x)
    assert torch.equal(again.y, data.y)


def houses(folder: Path, predict: tuple[float, ...] = (), **asked: Any) -> Experiment:
    path = folder / "houses.csv"
    path.write_text(HOUSES, encoding="utf-8")
    c = Configuration(data=str(path), columns="size,rooms,price", device="cpu", bias=True, **asked)
    return resolve([c], predict=predict)[0]


def test_the_prediction_is_at_the_means_or_where_it_is_asked_for(tmp_path: Path) -> None:
    experiment = houses(tmp_path)
    assert experiment.predict_at == (69.0, 2.6)
    model = experiment.new_model(torch.tensor([1.0, 10.0, 100.0]))
    assert experiment.predict(model).item() == 195.0
    assert houses(tmp_path, (2.0, 3.0)).predict(model).item() == 132.0
    for predict, message in (
        ((4.0,), "predict 4: x has columns: 2; give a number of each"),
        ((1.0, math.inf), "predict 1,inf: give finite numbers"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            houses(tmp_path, predict)


def test_the_headline_names_the_columns_in_the_order_of_w(tmp_path: Path) -> None:
    assert headline(houses(tmp_path)).startswith(
        "linear-houses: 5 samples of 2 columns (size, rooms), batch size 1, "
    )


def test_starting_values_are_those_of_entries(tmp_path: Path) -> None:
    experiment = houses(tmp_path, initial={"w[1]": 3.0})
    assert experiment.configuration.initial == {"w[0]": 1.0, "w[1]": 3.0, "b": 0.0}
    with pytest.raises(ValueError, match=r"has no parameter 'w'; it has w\[0\], w\[1\], b$"):
        houses(tmp_path, initial={"w": 3.0})


@pytest.mark.parametrize("flags", [
    {}, {"momentum": 0.9, "shuffle": True}, {"chunk_size": 2, "batch_size": 4},
    {"update": "autograd"}, {"update": "compiled"},
], ids=str)  # fmt: skip
def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, flags: dict[str, Any]) -> None:
    if flags.get("update") == "compiled":
        pytest.importorskip("numba")
    (tmp_path / "houses.csv").write_text(HOUSES, encoding="utf-8")
    asked = {"data": str(tmp_path / "houses.csv"), "columns": "size,rooms,price", "lr": 1e-5,
             "device": "cpu", "epochs": 6, **flags}  # fmt: skip
    whole = carry_out(new_runs([Configuration(**asked)], tmp_path, "whole"))
    carry_out(new_runs([Configuration(**asked)], tmp_path, "part"), at=3, steps=1)
    again = carry_out(resumed_runs(tmp_path / "part", {}))
    update = asked.get("update", "manual")
    one, other = (tmp_path / run / update / "trajectory.csv" for run in ("whole", "part"))
    assert one.read_bytes() == other.read_bytes()
    assert again.trajectory.weights["w"].shape == (len(whole.trajectory.step), 2)
    header = one.read_text().splitlines()[0]
    assert header == "step,epoch,loss,weight/w[0],weight/w[1],gradient/w[0],gradient/w[1]"
    result = json.loads((tmp_path / "whole" / update / "result.json").read_text())
    assert list(result["parameters"]) == ["w[0]", "w[1]"]


def test_the_table_has_standard_errors_and_r_squared(tmp_path: Path) -> None:
    experiment = houses(tmp_path, standardize=True, batch_size="full", lr="auto", epochs=3000)
    lines = [*table([Run(experiment).carry_out()])]
    head, *rows = [line.split("  ") for line in lines]
    assert [cell.strip() for cell in head if cell][-2:] == ["std. error", "distance"]
    phi = np.array([[float(c) for c in line.split(";")] for line in HOUSES.split("\n")[1:-1]])
    y, phi = phi[:, 3], np.c_[phi[:, :2], np.ones(5)]
    w, _, _, _ = np.linalg.lstsq(phi, y, rcond=None)
    rss = ((phi @ w - y) ** 2).sum()
    errors = np.sqrt(rss / 2 * np.diag(np.linalg.inv(phi.T @ phi)))
    for row, error in zip(rows, errors, strict=False):
        assert math.isclose(float([cell for cell in row if cell][-2]), error, rel_tol=1e-5)
    assert rows[-1][0] == "R²"
    shown = [float(cell) for cell in rows[-1][1:] if cell.strip()]
    assert shown == pytest.approx([1 - rss / ((y - y.mean()) ** 2).sum()] * 2, rel=1e-12)


def scaled(x: Tensor) -> Tensor:
    return (x - x.mean(dim=0)) / x.std(dim=0, correction=0)


@pytest.mark.parametrize("name", ["diabetes", "wine", "linnerud", "iris"])
def test_real_tables_against_lstsq(tmp_path: Path, name: str) -> None:
    """Both updates have the same bits, and go to what LAPACK finds, of scikit-learn's tables."""
    datasets = pytest.importorskip("sklearn.datasets")
    loaded = getattr(datasets, f"load_{name}")()
    values = np.c_[loaded.data, loaded.target.reshape(len(loaded.data), -1)[:, 0]]
    path = tmp_path / f"{name}.csv"
    header = ",".join(f"c{k}" for k in range(values.shape[1]))
    np.savetxt(path, values, fmt="%.17g", delimiter=",", header=header, comments="")
    asked: dict[str, Any] = {
        "data": str(path), "columns": header, "bias": True, "standardize": True, "lr": "auto",
        "batch_size": "full", "device": "cpu", "epochs": 2000,
    }  # fmt: skip
    both = resolve([Configuration(update=u, **asked) for u in ("manual", "autograd")])
    a, b = (Run(experiment).carry_out() for experiment in both)
    assert torch.equal(a.trajectory.table, b.trajectory.table)
    phi = np.c_[values[:, :-1], np.ones(len(values))]
    w, _, _, _ = np.linalg.lstsq(phi, values[:, -1], rcond=None)
    found = answer(both[0])
    assert found is not None
    np.testing.assert_allclose(found[0, :-2], w, rtol=1e-9)
    landscape = both[0].least_squares
    assert landscape is not None
    excess = landscape.excess(a.trajectory.weights_at([0, -1])).tolist()
    assert excess[1] < 1e-3 * excess[0]


def r_squared_of(folder: Path, table: np.ndarray[Any, Any], **asked: Any) -> float:
    np.save(folder / "t.npy", table)
    experiment = resolved(data=str(folder / "t.npy"), **asked)
    landscape = experiment.least_squares
    assert landscape is not None
    total = total_variance(landscape)
    return 1 - landscape.minimum / total if total else math.nan


def test_what_is_an_intercept(tmp_path: Path) -> None:
    """Some weights make ŷ = 1 at all samples: b, two dummies of one sum, and not a sparse one."""
    g = np.random.default_rng(0)
    count = 10_000
    dummy = np.arange(count) % 2 == 0  # constant on every other row, as on those that are looked at
    y = 50 + 3 * dummy + g.normal(size=count)
    centred = 1 - y[dummy].var() * 0.5 / y.var() - y[~dummy].var() * 0.5 / y.var()
    with_bias = r_squared_of(tmp_path, np.c_[dummy, g.normal(size=count), y], bias=True)
    assert math.isclose(with_bias, centred, abs_tol=1e-3)
    both = r_squared_of(tmp_path, np.c_[dummy, ~dummy, y])
    assert math.isclose(both, centred, rel_tol=1e-10)
    alone = r_squared_of(tmp_path, np.c_[dummy, y])  # a line through the origin
    assert math.isclose(alone, (y[dummy].mean() ** 2) * 0.5 / (y**2).mean(), rel_tol=1e-10)
    offset = """
import torch
class Off(torch.nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w, self.b = (torch.nn.Parameter(torch.ones((), device=device, dtype=dtype))
                          for _ in range(2))
    def forward(self, x):
        return x**2 + self.w * x + self.b
    def partials(self, x):
        return {"w": x, "b": 1}
"""
    (tmp_path / "off.py").write_text(offset, encoding="utf-8")
    x = np.linspace(-1, 3, 30)
    y = x**2 + 2 * x + 1 + 0.1 * g.normal(size=30)
    residual = y - x**2 - np.polyval(np.polyfit(x, y - x**2, 1), x)
    found = r_squared_of(tmp_path, np.c_[x, y], model=f"{tmp_path / 'off.py'}:Off")
    assert math.isclose(found, 1 - residual.var() / y.var(), rel_tol=1e-10)
    for constant in (0.0, *(1e5 * g.random(size=20))):  # of which some means are rounded
        assert math.isnan(r_squared_of(tmp_path, np.c_[x, x * 0 + constant], bias=True))


@pytest.mark.parametrize(("header", "columns", "message"), [
    ("a,b,y", "a,b,a", "--columns a,b,a: a column is named twice; give each once, y last"),
    ("a,y,b", "1,2,2", "--columns 1,2,2: a column is named twice; give each once, y last"),
    ("a (m),a (s),y", "a,y", "several are 'a'; give its number"),
    ("a,a,y", "a,y", "several are 'a'; give its number"),
])  # fmt: skip
def test_columns_that_cannot_be_told_apart(
    tmp_path: Path, header: str, columns: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n1,2,3\n2,3,5\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        load(str(tmp_path / "t.csv"), columns=columns)
    assert load(str(tmp_path / "t.csv"), columns="1,3").x.tolist() == [1, 2]


def test_of_many_columns_least_squares_are_no_fractions(tmp_path: Path) -> None:
    """With 50 columns they would take 13 s."""
    table = np.random.default_rng(0).normal(size=(200, 51))
    np.save(tmp_path / "wide.npy", table)
    experiment = resolved(data=str(tmp_path / "wide.npy"))
    assert not is_exact(experiment.new_model(), experiment.data.x)
    found = answer(experiment)
    assert found is not None
    w = np.linalg.lstsq(table[:, :-1], table[:, -1], rcond=None)[0]
    low, high = found[:, :-2].numpy()
    assert ((low <= w) & (w <= high)).all()
