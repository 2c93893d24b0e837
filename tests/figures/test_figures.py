"""What the figures draw is what the descent did: artists against numbers."""

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CERTIFIED, EXPONENTIAL, stacked
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from torch import Tensor
from torch.testing import assert_close

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import outcome_of
from torchgd.figures import animate, draw
from torchgd.figures.curves import curves, rates
from torchgd.figures.descent import descent, plane_of
from torchgd.figures.fit import fit
from torchgd.figures.play import described, playable
from torchgd.figures.runs import FAR, DrawnRun, lay_together
from torchgd.figures.style import COLOURS
from torchgd.gradients import jacobian
from torchgd.proof.compare import ulps
from torchgd.theory.rates import Rates

F64 = torch.float64
FULL: dict[str, Any] = {
    "model": "quadratic", "data": "cars", "standardize": True, "lr": "auto", "batch_size": "full"
}  # fmt: skip
FAR_OFF: dict[str, Any] = {"lr": 1.0, "epochs": 100}
SHUFFLED: dict[str, Any] = {
    "bias": True, "data": "noint1", "lr": 1e-5, "shuffle": True, "batch_size": 5, "epochs": 2
}  # fmt: skip
KEPT: dict[str, tuple[list[DrawnRun], dict[str, Figure]]] = {}


def recorded(label: str, update: str = "manual", **asked: Any) -> tuple[str, Experiment, Any]:
    outcome = outcome_of(Configuration(**{"device": "cpu", "update": update, **asked}))
    return label, outcome.experiment, outcome.trajectory


def trained(*updates: str, **asked: Any) -> list[DrawnRun]:
    names = updates or ("manual", "autograd")
    return lay_together([recorded(update, update, **asked) for update in names])


def drawn(**asked: Any) -> tuple[list[DrawnRun], dict[str, Figure]]:
    """Both updates' runs and all their figures, which are looked at and not changed: made once."""
    key = repr(sorted(asked.items()))
    if key not in KEPT:
        runs = trained(**asked)
        KEPT[key] = runs, draw(runs)
    return KEPT[key]


def alone(kind: Callable[..., None], runs: list[DrawnRun], **options: Any) -> Figure:
    figure = Figure()
    kind(figure, runs, **options)
    return figure


def artists(figure: Figure, gid: str) -> list[Any]:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def labels(figure: Figure, gid: str) -> list[str]:
    return [artist.get_label() for artist in artists(figure, gid)]


def intervals(figure: Figure) -> list[float]:
    """The ends of what is shaded as stable, of each interval in each panel."""
    found = [artist.get_path().get_extents(artist.get_patch_transform())
             for artist in artists(figure, "stable")]  # fmt: skip
    return [end for box in found for end in (box.x0, box.x1)]


def data(figure: Figure, gid: str, number: int = 0) -> tuple[Tensor, Tensor]:
    """The x and y of one line."""
    found = artists(figure, gid)[number]
    if gid == "path":  # in pieces
        pieces = torch.as_tensor(np.array(found.get_segments()), dtype=F64)
        x, y = torch.cat([pieces[:, 0], pieces[-1:, 1]]).T
        return x, y
    x, y = found.get_data(orig=True)
    return torch.as_tensor(x, dtype=F64), torch.as_tensor(y, dtype=F64)


def tangent(figure: Figure, number: int = 0) -> Tensor:
    """Its middle, (w, loss), and its slope."""
    w, loss = data(figure, "tangent", number)
    return torch.stack([w.mean(), loss.mean(), loss.diff()[0] / w.diff()[0]])


def before(run: DrawnRun, row: int) -> Tensor:
    """w, loss and ∂loss/∂w of a row."""
    path = run.trajectory
    return torch.stack([path.weights["w"][row], path.loss[row], path.gradients["w"][row]])


def equal(a: Any, b: Any) -> bool:
    return torch.equal(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64))


def test_the_loss_graphs_points_are_the_trajectorys() -> None:
    runs, figures = drawn()
    assert list(figures) == ["loss", "fit", "curves", "rates"]
    figure, x = figures["loss"], torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    for number, run in enumerate(runs):
        w, loss = data(figure, "path", number)
        assert equal(w, run.trajectory.weights["w"])
        assert equal(loss[:-1], run.trajectory.loss)
        assert equal(loss[:-1], (w[:-1] * x.repeat(50) - 2 * x.repeat(50)) ** 2)  # each its own
        assert equal(loss[-1], ((w[-1] * x - 2 * x) ** 2).mean())  # has no step, so all samples'
        points = artists(figure, "points")[number]
        assert equal(points.get_offsets().data, torch.stack([w, loss], dim=1))
    steps = artists(alone(descent, runs[:1]), "points")[0].get_array()
    assert equal(steps, runs[0].trajectory.step)
    assert artists(figure, "minimiser")[0].get_data()[0] == [pytest.approx(2, rel=1e-15)]
    assert data(figure, "end") == (w[-1:], loss[-1:])
    assert len(artists(figure, "tangent")) == 3  # of the recorded slope, about the point
    for k in range(3):
        assert_close(tangent(figure, k), before(runs[0], k), rtol=1e-13, atol=0)


def test_the_loss_graphs_curves_are_the_losses() -> None:
    figure = drawn()[1]["loss"]
    w, loss = data(figure, "loss")
    assert (w[0] + w[-1]).item() == pytest.approx(4)  # both sides of the minimiser
    assert_close(loss, 14 / 3 * (w - 2) ** 2, rtol=1e-13, atol=1e-13)
    for n, x in enumerate((1, 2, 3)):
        w, loss = data(figure, "batch", n)
        assert_close(loss, (w * x - 2 * x) ** 2, rtol=1e-13, atol=1e-13)
    many = trained("manual", data="hubble", epochs=1, lr=0.001)  # of many batches, some
    shown = [figure, alone(descent, trained(batch_size="full")), alone(descent, many)]
    assert [len(artists(figure, "batch")) for figure in shown] == [3, 0, 12]


def on_level(run: DrawnRun, figure: Figure, i: int, j: int) -> list[float]:
    """The largest relative distance between each level line and its level.

    The other weights are where NumPy's least squares has them for these two.
    """
    landscape, count = run.landscape, len(run.landscape.names)
    others = [k for k in range(count) if k not in (i, j)]
    phi = jacobian(landscape.model, landscape.x.double()).detach()
    (lines,) = [c for c in figure.axes[0].collections if hasattr(c, "levels")]
    apart = []
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        vertices = torch.as_tensor(np.asarray(path.vertices), dtype=F64)
        if len(vertices):
            weights = landscape.minimiser.repeat(len(vertices), 1)
            weights[:, [i, j]] = vertices
            left = landscape.y[:, None].double() - phi[:, [i, j]] @ vertices.T
            best = np.linalg.lstsq(phi[:, others].numpy(), left.numpy(), rcond=None)[0]
            weights[:, others] = torch.from_numpy(best).T
            apart.append((landscape.excess(weights) / level - 1).abs().max().item())
    return apart


@pytest.mark.parametrize(("plane", "index"), [(None, [0, 2]), (["w1", "w2"], [1, 0])])
def test_the_contour_plot(
    plane: list[str] | None, index: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    runs, figures = drawn(**FULL)
    assert list(figures) == ["contour", "fit", "curves", "rates"]
    figure = figures["contour"] if plane is None else draw(runs, plane)["contour"]
    figure.draw_without_rendering()
    assert caplog.messages == []  # matplotlib logs what it cannot lay out
    low, high = np.transpose([figure.axes[0].get_xlim(), figure.axes[0].get_ylim()])
    box = figure.axes[0].get_window_extent()
    assert (high - low)[0] / (high - low)[1] == pytest.approx(box.width / box.height)
    landscape = runs[0].landscape
    assert plane_of(runs, plane) == index
    for number, run in enumerate(runs):
        x, y = data(figure, "path", number)
        assert equal(torch.stack([x, y], dim=1), stacked(run.trajectory)[:, index])
    centre = landscape.minimiser[index]
    assert data(figure, "minimiser") == (centre[0], centre[1])
    # Interpolated on a grid of 241², which is coarse only within the innermost lines.
    apart = on_level(runs[0], figure, *index)
    assert len(apart) >= 10
    assert max(apart[-5:]) < 0.01
    (k,) = {0, 1, 2} - {*index}
    H, directions = landscape.hessian, []
    H = H[index][:, index] - torch.outer(H[index, k], H[k, index]) / H[k, k]
    for n, label in enumerate(labels(figure, "axis")):
        ends = torch.stack(data(figure, "axis", n), dim=1)
        assert_close(ends.mean(dim=0), centre, rtol=1e-12, atol=1e-12)
        v = (ends[1] - ends[0]) / (ends[1] - ends[0]).norm()
        curvature = torch.dot(v, H @ v).item()
        assert_close(H @ v, curvature * v, rtol=1e-12, atol=1e-12)
        assert label == f"principal axis of the level lines:\ncurvature λ = {curvature:.3g}"
        directions.append(v)
    assert abs(torch.dot(*directions).item()) < 1e-12


def test_the_plane_is_of_the_two_that_cost_most() -> None:
    runs, _ = drawn(**FULL)
    landscape = runs[0].landscape
    way = (stacked(runs[0].trajectory) - landscape.minimiser).abs().amax(dim=0)
    costs = [landscape.hessian[k, k].item() * way[k].item() ** 2 for k in range(3)]
    assert sorted(costs)[1:] == sorted(costs[k] for k in plane_of(runs, None))
    for wrong in (["w2"], ["w2", "w2"], ["w2", "v"], ["w2", "w1", "b"], ["b", "w2", "b"], [""]):
        with pytest.raises(ValueError, match="^plane '.*': give two of the parameters w2, w1, b, "):
            draw(runs, wrong)


@pytest.mark.parametrize("name", ["cars", "co2", "pontius"])
def test_the_fit_is_in_original_units(name: str) -> None:
    outcome = outcome_of(Configuration(**{**FULL, "data": name, "epochs": 300}))
    figure = alone(fit, lay_together([("manual", outcome.experiment, outcome.trajectory)]))
    exact = {k: float(v) for k, v in CERTIFIED[name]["exact_30_digits"].items()}
    start = outcome.experiment.parameters(outcome.experiment.new_model())
    for gid, w in ("best", exact), ("end", outcome.parameters), ("early", start):
        x, y = data(figure, gid)
        expected = w["w2"] * x**2 + w["w1"] * x + w["b"]
        assert_close(y, expected, rtol=1e-9, atol=1e-9 * y.abs().max().item())
    x, y = data(figure, "data")
    assert equal(x, outcome.experiment.data.x)
    assert equal(y, outcome.experiment.data.y)
    low, high = figure.axes[0].get_xlim()
    assert low < x.min() < x.max() < high


def test_the_page_names_its_axes_as_they_are_trained_on() -> None:
    runs, _ = drawn(data="cars", bias=True, standardize=True)
    found = described(runs[0], None)
    assert found["axes"] == {"x": ("x, standardized", ""), "y": ("y", "ft")}


def test_the_fit_shows_early_steps_and_some_of_many_samples(tmp_path: Path) -> None:
    runs, figures = drawn()
    figure, steps = figures["fit"], (0, 1, 4, 11, 27, 64)
    assert labels(figure, "early") == [f"manual, step {k}" for k in steps]
    for number, step in enumerate(steps):
        x, y = data(figure, "early", number)
        assert_close(y, runs[0].trajectory.weights["w"][step] * x, rtol=1e-15, atol=0)
    left = "\nloss − minimum = 3.6e-13"
    assert labels(figure, "end") == [f"manual, step 150:{left}", f"autograd, step 150:{left}"]
    np.save(tmp_path / "many.npy", np.random.default_rng(0).random((5000, 2)))
    many = trained("manual", data=str(tmp_path / "many.npy"), batch_size="full", epochs=2)
    figure = alone(fit, many)
    assert len(data(figure, "data")[0]) == 2000
    assert labels(figure, "end")[0].startswith("step 2:\nloss − minimum = ")


def test_the_excess_and_its_predicted_rate() -> None:
    """Per sample on the lesson: (14/3)(w − 2)², and ρ = 0.98·0.92·0.82 an epoch of 3 steps."""
    runs, figures = drawn()
    figure = figures["curves"]
    step, excess = data(figure, "excess")
    assert equal(step, torch.arange(151))
    assert_close(excess, 14 / 3 * (runs[0].path[:, 0] - 2) ** 2, rtol=1e-12, atol=0)
    step, line = data(figure, "rate")
    assert line[0] == excess[0]
    expected = torch.tensor(math.log((0.98 * 0.92 * 0.82) ** 2) / 3, dtype=F64)
    assert_close(line[:-1].log().diff(), expected.expand(149), rtol=1e-12, atol=0)
    assert labels(figure, "rate") == ["theory, at last:\n×0.817621 a step"]
    # Over whole epochs, the measured decay is the predicted one.
    assert_close(excess[::3].log().diff() / 3, expected.expand(50), rtol=1e-6, atol=0)


def test_the_full_batchs_rate_is_the_slowest_eigenvalues_and_weights_lie_over_each_other() -> None:
    runs, figures = drawn(**FULL)
    figure, limits = figures["curves"], CERTIFIED["cars"]["full_batch_standardised"]
    lr = runs[0].experiment.options["lr"]
    rho = max(abs(1 - lr * limits[name]) for name in ("lambda_min", "lambda_max"))
    _, line = data(figure, "rate")
    assert line.log().diff()[0].item() == pytest.approx(2 * math.log(rho), rel=1e-9)
    for number, name in itertools.product(range(2), runs[0].landscape.names):
        step, w = data(figure, name, number)
        assert equal(step, runs[number].trajectory.step)
        assert equal(w, runs[number].trajectory.weights[name])
    under, over = artists(figure, "w2")
    assert under.get_linewidth() > over.get_linewidth()
    assert under.get_zorder() <= over.get_zorder()


def test_ulps_between_two_updates() -> None:
    right = trained(model="quadratic", data="lesson", batch_size="full")
    figure = alone(curves, right)
    assert data(figure, "ulps w1")[1].count_nonzero() == 0
    assert figure.axes[2].get_title() == "manual against autograd: the same bits at every step"
    asked = {"model": "quadratic", "data": "lesson", "batch_size": "full"}
    wrong = recorded("two roundings", "two-roundings", **asked)
    both = [("manual", right[0].experiment, right[0].trajectory), wrong]
    figure = alone(curves, lay_together(both))
    ours, theirs = right[0].trajectory.weights, wrong[2].weights
    apart = {name: ulps(w, theirs[name]) for name, w in ours.items()}
    for name, expected in apart.items():
        assert equal(data(figure, f"ulps {name}")[1], expected.astype(float))
    largest = max(expected.max() for expected in apart.values())
    assert largest > 0
    title = figure.axes[2].get_title()
    assert title == f"manual against two roundings: at most {largest:g} ULPs apart"


def test_runs_of_other_options_lie_over_each_other_without_ulps() -> None:
    runs = lay_together([recorded("manual", lr=lr, batch_size="full") for lr in (0.01, 0.15)])
    figure, graph = alone(curves, runs), alone(descent, runs)
    assert len(figure.axes) == len(artists(figure, "rate")) == 2
    assert figure.axes[0].get_title() == "linear-lesson, full batch, α = 0.01, 0.15"
    for number, run in enumerate(runs):
        assert equal(data(graph, "path", number)[0], run.trajectory.weights["w"])


@pytest.mark.parametrize(("what", "other"), [
    ("data", {"data": "hubble", "lr": 1e-3}), ("model", {"model": "quadratic", "data": "lesson"}),
    ("bias", {"bias": True}), ("standardize", {"standardize": True}),
])  # fmt: skip
def test_runs_on_other_landscapes_do_not(what: str, other: dict[str, Any]) -> None:
    runs = [recorded("manual", epochs=1), recorded("autograd", epochs=1, **other)]
    with pytest.raises(ValueError, match=rf"^manual has {what} \w+, and autograd \w+: only runs"):
        lay_together(runs)


def test_the_learning_rates_of_the_lesson() -> None:
    """|ρ| = |(1 − 2α)(1 − 8α)(1 − 18α)|, and after 50 epochs (14/3)·ρ¹⁰⁰."""
    figure = drawn()[1]["rates"]
    lr, rho = data(figure, "contraction")
    expected = ((1 - 2 * lr) * (1 - 8 * lr) * (1 - 18 * lr)).abs()
    assert_close(rho, expected, rtol=1e-12, atol=1e-15)
    assert figure.axes[1].get_ylim() == (0, 2)  # ρ is 5.5 between the two, at α = 1/3
    _, after = data(figure, "after")
    expected = (14 / 3 * expected**100).clamp(14 / 3 * 1e-32)
    seen = expected > 1e-22  # there w − 2 is 10⁴ roundings of 2
    assert_close(after[seen], expected[seen], rtol=1e-3, atol=0)
    for axes in (0, 1):
        assert set(artists(figure, "this run")[axes].get_xdata()) == {0.01}
    ends = [0, 0.204018, 0.476538, 0.519014]
    assert intervals(figure) == pytest.approx(2 * ends, abs=5e-7)  # in both panels
    low, high = figure.axes[1].get_xlim()
    assert low == 0 < ends[-1] < high
    said = ["stable up to\nα = 0.204018", "stable again from α = 0.476538\nto 0.519014"]
    assert labels(figure, "stable")[-2:] == said
    assert labels(figure, "contraction") == ["|ρ|, least at\nα = 0.0555556"]  # 1/18
    assert labels(figure, "this run")[1] == "this run,\nα = 0.01"
    x, y = artists(figure, "own")[0].get_data()
    assert (x, y) == ([0.01], [pytest.approx(0.98 * 0.92 * 0.82)])


@pytest.mark.parametrize("options", [
    {}, {"shuffle": True}, {"momentum": 0.5, "dampening": 0.5}, {"weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True}, {"batch_size": 2},
])  # fmt: skip
def test_a_rate_of_the_sweep_is_where_a_run_gets(options: dict[str, Any]) -> None:
    asked = {"model": "quadratic", "data": "lesson", "lr": 0.002, "epochs": 20, **options}
    runs = trained("manual", **asked)
    lr, after = data(alone(rates, runs, known=Rates([(0.0, 0.02)])), "after")
    for k in (1, len(lr) // 2):
        end = stacked(trained("manual", **{**asked, "lr": lr[k].item()})[0].trajectory)[-1:]
        assert after[k].item() == pytest.approx(runs[0].landscape.excess(end).item(), rel=1e-9)


def test_intervals_that_are_far_apart_are_on_a_logarithmic_axis(tmp_path: Path) -> None:
    """x = 1 and 0.1: |1 − 2α||1 − 0.02α| ≤ 1 up to about 1, and again about 1/0.02 = 50."""
    (tmp_path / "two.csv").write_text("1,2\n0.1,0.2\n", encoding="utf-8")
    figure = drawn(data=str(tmp_path / "two.csv"))[1]["rates"]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    low, high = figure.axes[1].get_xlim()
    assert low < 0.01 < max(intervals(figure)) < high  # the run's own is 0.01
    assert max(intervals(figure)) == pytest.approx(50.5, rel=1e-2)


def test_shuffled_batches_are_those_of_the_first_epoch() -> None:
    runs, figures = drawn(**SHUFFLED)
    (experiment,) = resolve([runs[0].experiment.configuration])
    batches = experiment.batches
    batches.set_epoch(0)
    for laid, first in zip(runs[0].landscape.batches, batches, strict=True):
        assert all(map(equal, laid, first))
    assert figures["rates"].axes[0].get_title().endswith(", the first epoch's order")


def test_where_every_rate_is_stable_there_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "zero.csv").write_text("0,1\n0,2\n", encoding="utf-8")
    assert "rates" not in draw(trained("manual", data=str(tmp_path / "zero.csv")))
    assert "rates" not in draw(trained("manual", maximize=True))


def test_a_descent_that_diverges_leaves_the_picture() -> None:
    runs, figures = drawn(**FAR_OFF)
    rows, excess, graph = runs[0].inside, runs[0].excess, figures["loss"]
    assert excess[:rows].max() <= FAR * excess[0] < excess[rows]
    low, high = graph.axes[0].get_xlim()
    w = runs[0].trajectory.weights["w"]
    assert low < w[:rows].min() < w[:rows].max() < high < low + 50
    assert equal(data(graph, "path")[0], w[: rows + 1])
    assert len(artists(graph, "points")[0].get_offsets()) == rows
    assert not artists(graph, "end")
    said = [text.get_text() for text in graph.legends[0].get_texts()]
    assert f"manual: leaves after step {rows - 1}" in said
    # Nor does the fit follow.
    assert labels(figures["fit"], "end")[0].startswith(f"manual, step {rows - 1}:")
    _, grows = data(figures["curves"], "rate")
    assert grows[1] / grows[0] == pytest.approx((0.98 - 1.98 + 0) ** 2 * 24.1935, rel=1e-4)


@pytest.mark.parametrize("asked", [
    {"epochs": 1, "batch_size": "full"}, {"epochs": 1}, {"initial": {"w": 2.0}},
    FAR_OFF, {"lr": 0.0}, {**FULL, "epochs": 1}, {"dtype": "float32"},
    {"model": "quadratic", "data": "pontius"}, {"model": "quadratic", "momentum": 0.9},
    {"model": "quadratic", "data": "lesson", "weight_decay": 0.1, "maximize": True}, SHUFFLED,
])  # fmt: skip
def test_every_figure_of_every_run_can_be_drawn(asked: dict[str, Any]) -> None:
    for figure in drawn(**asked)[1].values():
        figure.savefig(io.BytesIO(), dpi=20)
        for axes in figure.axes:
            assert np.isfinite([axes.get_xlim(), axes.get_ylim()]).all()


def test_a_users_model(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(EXPONENTIAL, encoding="utf-8")
    runs, figures = drawn(model=f"{tmp_path}/own.py:Exponential", lr=0.002, epochs=200)
    for figure in figures.values():
        figure.savefig(io.BytesIO(), dpi=20)
    assert figures["contour"].axes[0].get_xlabel() == "a  "
    assert max(on_level(runs[0], figures["contour"], 0, 1)[-5:]) < 0.05
    x, y = data(figures["fit"], "end")
    a, k = stacked(runs[0].trajectory)[-1]
    assert_close(y, a * (k * x).exp(), rtol=1e-13, atol=0)
    # No closed form says where other learning rates lead to: their stability alone is drawn.
    (axes,) = figures["rates"].axes
    assert axes.get_ylabel() == "an epoch multiplies\nthe error by |ρ|"
    lr, rho = data(figures["rates"], "contraction")
    ends = intervals(figures["rates"])
    pairs = zip(ends[::2], ends[1::2], strict=True)
    inside = torch.stack([(low <= lr) & (lr <= high) for low, high in pairs]).any(dim=0)
    assert (rho[inside] < 1 + 2e-9).all()
    assert (rho[~inside] > 1).all()


@pytest.mark.parametrize(("asked", "plane", "said"), [
    ({}, None, ["w  [points/hour]", "loss = (1/N) Σ (ŷ − y)²  [points²]"]),
    ({"data": "hubble", "lr": 1e-3}, None,
     ["w  [km/s/Mpc]", "loss = (1/N) Σ (ŷ − y)²  [(km/s)²]"]),
    ({"data": "noint1", "lr": 1e-5}, None, ["w  ", "loss = (1/N) Σ (ŷ − y)²  "]),
    ({"model": "quadratic", "data": "cars", "lr": 1e-7}, ["w2", "w1"],
     ["w2  [ft/mph²]", "w1  [ft/mph]"]),
    (FULL, None, ["w2  [ft]", "b  [ft]"]),
])  # fmt: skip
def test_axes_carry_symbols_and_units(
    asked: dict[str, Any], plane: list[str] | None, said: list[str]
) -> None:
    axes = alone(descent, trained("manual", **asked), plane=plane).axes[0]
    assert [axes.get_xlabel(), axes.get_ylabel()] == said


def test_manual_and_autograd_differ_in_lightness_too() -> None:
    """By WCAG 2's contrast, so that a grey print and all colour vision tell them apart."""
    rgb = to_rgba_array(COLOURS[:2])[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    darker, lighter = sorted(linear @ [0.2126, 0.7152, 0.0722])
    assert (lighter + 0.05) / (darker + 0.05) > 2


def test_runs_are_told_apart_by_colour_in_every_panel() -> None:
    """By lines, points, start and end; of one run, the colours are those of steps and weights."""
    runs = [recorded(f"{lr}", lr=lr, epochs=5) for lr in (0.01, 0.02, 0.05)]
    figures = draw(lay_together(runs))
    for name, gids in {
        "loss": ["points", "path", "start", "end"], "curves": ["excess", "w"], "rates": ["a run"]
    }.items():  # fmt: skip
        for gid in gids:
            colours = [colour_of(artist) for artist in artists(figures[name], gid)[:3]]
            assert colours == [*COLOURS[:3]], gid


def colour_of(artist: Any) -> str:
    found = artist.get_color() if hasattr(artist, "get_color") else artist.get_facecolor()
    return to_hex(to_rgba_array(found)[0])


def test_a_zigzag_fades() -> None:
    """Each step is at most as strong as the one before, and the last a fifth of the first."""
    (run,) = trained("manual", bias=True, batch_size="full", lr=0.17, epochs=60)
    (lines,) = artists(alone(descent, [run]), "path")
    strengths = torch.as_tensor(lines.get_color()[:, 3])
    assert strengths[0] == 1
    assert (strengths.diff() <= 0).all()
    assert strengths[-1] < 0.2


def test_a_frame_has_the_tangent_where_it_stands() -> None:
    runs = trained("manual")
    figure = alone(descent, runs, upto=7)
    w, _, _ = expected = before(runs[0], 7)
    assert_close(tangent(figure), expected)
    mean = 14 / 3 * (w - 2) ** 2
    assert figure.axes[0].get_title() == f"step 7: w = {w:.6g}, loss = {mean:.4g}"
    # From the last weights no step starts.
    assert not artists(alone(descent, runs, upto=150), "tangent")


@pytest.mark.parametrize("asked", [{"epochs": 5}, {**FULL, "epochs": 3}])
def test_the_animation(asked: dict[str, Any], tmp_path: Path) -> None:
    runs = trained(**asked)
    animate(runs, tmp_path / "descent.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["descent.gif"]
    assert (tmp_path / "descent.gif").stat().st_size < 5e6
    with Image.open(tmp_path / "descent.gif") as gif:
        frames = [(f.info["duration"], np.asarray(f.convert("L"), int))
                  for f in ImageSequence.Iterator(gif)]  # fmt: skip
    durations, pictures = zip(*frames, strict=True)
    assert len(pictures) == len(runs[0].path)  # and the last one, which stays, is one frame
    assert sum(durations) <= 10_000
    for a, b in itertools.pairwise(pictures):
        for side in np.hsplit(abs(a - b), 2):  # by more than the rounding of a frame's colours
            assert side.max() > 100


def test_an_animation_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "descent.gif").write_text("the old one", encoding="utf-8")
    with pytest.raises(ValueError, match="^plane 'x'"):
        animate(trained("manual", **{**FULL, "epochs": 2}), tmp_path / "descent.gif", ["x"])
    assert [path.name for path in tmp_path.iterdir()] == ["descent.gif"]
    assert (tmp_path / "descent.gif").read_text(encoding="utf-8") == "the old one"


def test_several_columns(tmp_path: Path) -> None:
    """Of a plane there is ŷ over y, in its own units, and the contour plot of two entries."""
    g = np.random.default_rng(0)
    x = g.normal(size=(30, 3)) * [1, 20, 0.1] + [0, 50, 3]
    y = x @ [1.0, 0.3, 20] + g.normal(size=30)
    np.save(tmp_path / "plane.npy", np.c_[x, y])
    runs = trained(data=str(tmp_path / "plane.npy"), bias=True, standardize=True, lr=0.1,
                   batch_size="full", epochs=30)  # fmt: skip
    figure = alone(fit, runs)
    measured, start = data(figure, "early")
    assert equal(measured, torch.from_numpy(y))
    z = (torch.from_numpy(x) - torch.from_numpy(x.mean(0))) / torch.from_numpy(x.std(0))
    offset = runs[0].experiment.offset
    assert_close(start, z.sum(dim=1) + offset, rtol=1e-12, atol=1e-12)
    for number, run in enumerate(runs):
        *w, b = run.path[-1]
        expected = z @ torch.stack(w) + b + offset
        assert_close(data(figure, "end", number)[1], expected, rtol=1e-12, atol=1e-12)
    phi = np.c_[x, np.ones(30)]
    best = torch.from_numpy(phi @ np.linalg.lstsq(phi, y, rcond=None)[0])
    assert_close(data(figure, "best")[1], best, rtol=1e-10, atol=1e-10)
    assert equal(*data(figure, "equal"))
    figure = draw(runs, ["w[0]", "b"])["contour"]
    assert plane_of(runs, ["w[0]", "b"]) == [0, 3]
    assert max(on_level(runs[0], figure, 0, 3)[-5:]) < 0.01
    said = "level lines of the loss,\nthe other weights at their best for each pair"
    assert said in [line.get_label() for line in figure.axes[0].lines]
    curve = alone(curves, runs)
    assert equal(data(curve, "w[1]")[1], runs[0].path[:, 1])
    with pytest.raises(ValueError, match="^3 columns of x: the page draws one alone$"):
        playable(runs, None)
    few = trained("manual", data=str(tmp_path / "plane.npy"), bias=True, lr=0.0001, epochs=1,
                  batch_size="full")  # fmt: skip
    animate(few, tmp_path / "plane.gif")
    assert (tmp_path / "plane.gif").stat().st_size > 0
