"""The descent in figures. The only file that imports matplotlib.

Each shows one run, or several of one model on one data set laid over each other. The functions
draw on a figure that they are given; in an animation `upto` is the last row that is shown yet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchgd.experiment.files import replacing
from torchgd.figures.scene import Run, Scene

# Okabe and Ito's palette, told apart by every kind of colour vision, as is cividis for the steps.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
RED, GREEN, GREY, BLACK = COLOURS[5], COLOURS[2], "#999999", "#000000"
STEPS = matplotlib.colormaps["cividis"]
STYLE: Any = {
    "font.size": 12,
    "figure.figsize": (10.5, 5.6),
    "figure.dpi": 80,  # in TensorBoard and the animation; files have 150
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "axes.titlesize": 12.5,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "torchgd",  # the same picture is the same file
}
ASIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # of an axes' legend
HIGHEST = 1e100  # of a logarithmic axis
F64 = torch.float64

Style = dict[str, Any]


def draw(
    scene: Scene, plane: Sequence[str] | None = None, windows: bool = False
) -> dict[str, Figure]:
    """Return every figure that the scene has, by name, each in a window that `show` opens if asked.

    They are `loss` (of one parameter) or `contour`, `fit`, `curves` and, where some learning rate
    is stable and some is not, `rates`.

    Raises:
        ValueError: see `Scene.plane`, or there is no display for windows.
    """
    descent = partial(contour, plane=plane) if len(scene.names) > 1 else loss_graph
    kinds: dict[str, Callable[..., None]] = {
        "loss" if len(scene.names) == 1 else "contour": descent,
        "fit": fit,
        "curves": curves,
    }
    if 0 < scene.stable < math.inf:
        kinds["rates"] = rates
    figures = {}
    with matplotlib.rc_context(STYLE):
        for name, kind in kinds.items():
            figures[name] = _window_figure() if windows else Figure()
            kind(figures[name], scene)
    return figures


def save(figures: dict[str, Figure], directory: Path, suffix: str) -> Iterator[Path]:
    """Write each figure as directory/NAME.SUFFIX, whole or not at all; yield the files."""
    for name, figure in figures.items():
        file = directory / f"{name}.{suffix}"
        with replacing(file) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, dpi=150)
        yield file


def show() -> None:
    """Open the windows, and wait until they are closed."""
    pyplot.show()


def _window_figure() -> Figure:
    figure = pyplot.figure()
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        raise ValueError(
            f"matplotlib's backend {matplotlib.get_backend()} opens no window: "
            "leave out --show, or run where there is a display"
        )
    return figure


def _style(scene: Scene, number: int, alone: float) -> dict[str, Any]:
    """A run's colour and width: the first lies, wide, under the others; one is `alone` wide."""
    width = (4.5, 1.6, 1.0)[min(number, 2)] if len(scene.runs) > 1 else alone
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": width}


def _of_steps(run: Run) -> PowerNorm:
    """The scale of the steps' colours, by the root: the first steps go farthest."""
    return PowerNorm(0.5, vmin=0, vmax=max(1, int(run.trajectory.step[-1])))


def _rows(scene: Scene, number: int, upto: int | None) -> int:
    """How many rows of a run are drawn."""
    inside = scene.inside[number]
    return inside if upto is None else min(inside, upto + 1)


def _path(axes: Axes, scene: Scene, points: list[tuple[Tensor, Tensor]], upto: int | None) -> None:
    """Draw each run's points, given row by row, joined and coloured by step."""
    for number, (run, (x, y)) in enumerate(zip(scene.runs, points, strict=True)):
        rows = _rows(scene, number, upto)
        joined = rows if upto is not None else rows + 1  # the step that leaves the picture, too
        label = run.label if len(scene.runs) > 1 else "descent"
        line: Style = {"alpha": 0.6, "label": label, "gid": "path", **_style(scene, number, 1.2)}
        axes.plot(x[:joined], y[:joined], **line)
        colours: Style = {"c": run.trajectory.step[:rows], "norm": _of_steps(run), "cmap": STEPS}
        size: Style = {"s": 30 / (1 + number), "linewidths": 0.3, "edgecolors": line["color"]}
        axes.scatter(x[:rows], y[:rows], zorder=3 + number, gid="points", **colours, **size)
    (x, y), end = points[0], _rows(scene, 0, upto) - 1
    step = int(scene.runs[0].trajectory.step[end])
    ring: Style = {"color": BLACK, "fillstyle": "none", "zorder": 9}
    axes.plot(x[0], y[0], "s", markersize=11, label="start", **ring)
    if scene.inside[0] == len(x) or upto is not None:
        axes.plot(x[end], y[end], "o", markersize=13, label=f"end, step {step}", gid="end", **ring)
    else:
        axes.plot([], [], " ", label=f"leaves after step {step}")


def _finish(figure: FigureBase, axes: Axes, scene: Scene, upto: int | None) -> None:
    """Add the title, and beside the axes the steps' colours and the legend; a frame has none."""
    if upto is not None:
        axes.set_title(f"step {int(scene.runs[0].trajectory.step[_rows(scene, 0, upto) - 1])}")
        return
    axes.set_title(scene.title_with_rates)
    scale = ScalarMappable(_of_steps(scene.runs[0]), STEPS)
    ticks = MaxNLocator(integer=True)
    figure.colorbar(scale, ax=axes, label="step", pad=0.02, aspect=30, ticks=ticks)
    figure.legend(loc="outside right upper")


def loss_graph(figure: FigureBase, scene: Scene, upto: int | None = None) -> None:
    """loss(w) over the only parameter w, and the descent on it.

    A point is a row of the trajectory: the weight before a step, and the loss of that step's batch
    there. It lies on this batch's own curve, down whose tangent the step goes, and not on the
    curve of all samples. The last weight, from which no step starts, lies on the latter.
    """
    axes, landscape = figure.add_subplot(), scene.landscape
    middle = landscape.minimiser.item()
    half = 1.15 * max(abs(end - middle) for end in scene.reach(0))
    w = torch.linspace(middle - half, middle + half, 201, dtype=F64)
    if len(landscape.batches) > 1:
        _batch_curves(axes, scene, w)
    mean = landscape.minimum + landscape.excess(w[:, None])
    axes.plot(w, mean, color=BLACK, label="loss(w) over all samples", gid="loss")
    points = [(run.path[:, 0], _losses(scene, run)) for run in scene.runs]
    _tangents(axes, scene, points[0], half / 8)
    _path(axes, scene, points, upto)
    star: Style = {
        "color": RED,
        "zorder": 8,
        "gid": "minimiser",
        "label": f"minimiser w* = {middle:.6g}",
    }
    axes.plot(middle, landscape.minimum, "*", markersize=15, **star)
    seen = torch.cat([y[:rows] for (_, y), rows in zip(points, scene.inside, strict=True)])
    room = seen[seen.isfinite()].max().item() - landscape.minimum or mean.max().item()
    axes.set_ylim(landscape.minimum - 0.06 * room, landscape.minimum + 1.08 * room)
    axes.set_xlim(w[0].item(), w[-1].item())
    axes.set_xlabel(f"w  {scene.weight_unit(scene.names[0])}")
    axes.set_ylabel(f"loss = (1/N) Σ (ŷ − y)²  {scene.loss_unit}")
    _finish(figure, axes, scene, upto)


def _losses(scene: Scene, run: Run) -> Tensor:
    """Each row's recorded loss and, for the last weights, the loss over all data."""
    last = scene.landscape.loss(run.path[-1:])
    return torch.cat([run.trajectory.loss.double(), last])[: len(run.path)]


def _batch_curves(axes: Axes, scene: Scene, w: Tensor) -> None:
    """Draw the losses of single batches: of all of them where they are few."""
    batches = scene.landscape.batches
    what = "sample" if len(batches[0][1]) == 1 else "batch"
    for n in np.linspace(0, len(batches) - 1, min(len(batches), 12)).round().astype(int).tolist():
        label = f"loss(w) of one {what}" if n == 0 else None
        loss = scene.landscape.loss(w[:, None], batch=n)
        axes.plot(w, loss, color=GREY, linewidth=1, label=label, gid="batch")


def _tangents(axes: Axes, scene: Scene, points: tuple[Tensor, Tensor], half: float) -> None:
    """Draw the tangents down which the first steps go: their slope is the recorded ∂loss/∂w."""
    (slopes,), (w, loss) = scene.runs[0].trajectory.gradients.values(), points
    along = torch.tensor([-half, half], dtype=F64)
    for k, slope in enumerate(slopes[:3]):
        label = "tangents of the first steps" if k == 0 else None
        line: Style = {
            "color": RED,
            "linewidth": 1.5,
            "zorder": 4,
            "gid": "tangent",
            "label": label,
        }
        axes.plot(w[k] + along, loss[k] + slope * along, **line)


def contour(
    figure: FigureBase, scene: Scene, upto: int | None = None, plane: Sequence[str] | None = None
) -> None:
    """The loss's level lines over two parameters, and the descent projected on their plane.

    The other parameters are at the minimiser. The Hessian's principal axes in this plane are
    dashed: across, along the larger curvature λ, a descent zigzags, along the other it creeps.

    Raises:
        ValueError: see `Scene.plane`.
    """
    axes, landscape = figure.add_subplot(), scene.landscape
    i, j = scene.plane(plane)
    (x0, x1), (y0, y1) = _window(scene, i, j), _window(scene, j, i)
    # Beyond the window, which grows where both axes get one scale.
    count = 241 if landscape.linear else 121
    u = torch.linspace(2 * x0 - x1, 2 * x1 - x0, count, dtype=F64)
    v = torch.linspace(2 * y0 - y1, 2 * y1 - y0, count, dtype=F64)
    weights = landscape.minimiser.repeat(count, count, 1)
    weights[..., i], weights[..., j] = u, v[:, None]
    height = landscape.excess(weights.flatten(0, 1)).reshape(count, count)
    top = height[height.isfinite()].max().item()
    levels = np.geomspace(1e-5 * top, top, 16) if top > 0 else [0.0, 1.0]
    axes.contour(u, v, height.clamp(max=top), levels=levels, colors=GREY, linewidths=0.8)
    axes.plot([], [], color=GREY, linewidth=0.8, label="level lines of the loss")
    _principal_axes(axes, scene, torch.tensor([i, j]), 2 * max(x1 - x0, y1 - y0))
    _path(axes, scene, [(run.path[:, i], run.path[:, j]) for run in scene.runs], upto)
    star: Style = {"color": RED, "zorder": 8, "gid": "minimiser", "label": "minimiser"}
    axes.plot(landscape.minimiser[i], landscape.minimiser[j], "*", markersize=15, **star)
    axes.set_xlim(x0, x1, auto=None)  # None leaves an equal aspect free to widen it
    axes.set_ylim(y0, y1, auto=None)
    if 1 / 6 < (x1 - x0) / (y1 - y0) < 6:  # right angles look right
        axes.set_aspect("equal", adjustable="datalim")
    names = (f"{scene.names[k]}  {scene.weight_unit(scene.names[k])}" for k in (i, j))
    axes.set(**dict(zip(("xlabel", "ylabel"), names, strict=True)))
    _finish(figure, axes, scene, upto)


def _window(scene: Scene, k: int, other: int) -> tuple[float, float]:
    """Where parameter k is looked at: its reach, widened towards the scale of the other's."""
    (low, high), (first, last) = scene.reach(k), scene.reach(other)
    like = last - first if last - first < 6 * (high - low) else 0.0
    half = 0.62 * max(high - low, like / 1.4)
    return (low + high) / 2 - half, (low + high) / 2 + half


def _principal_axes(axes: Axes, scene: Scene, plane: Tensor, length: float) -> None:
    centre = scene.landscape.minimiser[plane]
    curvatures, directions = torch.linalg.eigh(scene.landscape.hessian[plane][:, plane])
    for curvature, direction, dashes in zip(
        curvatures, directions.T, ((1, 2), (5, 3)), strict=True
    ):
        ends = centre + length * direction * torch.tensor([[-1.0], [1.0]])
        label = f"principal axis, λ = {curvature:.3g}"
        line: Style = {
            "color": GREEN,
            "linewidth": 1.4,
            "dashes": dashes,
            "gid": "axis",
            "label": label,
        }
        axes.plot(ends[:, 0], ends[:, 1], scalex=False, scaley=False, **line)


def fit(figure: FigureBase, scene: Scene, upto: int | None = None) -> None:
    """The data, ŷ at several steps and at the end, and least squares' ŷ; in original units."""
    axes, landscape, data = figure.add_subplot(), scene.landscape, scene.experiment.data
    some = torch.linspace(0, len(data.x) - 1, min(len(data.x), 2000)).long()
    dots: Style = {"color": BLACK, "markersize": 4, "zorder": 4, "label": "data", "gid": "data"}
    axes.plot(data.x[some], data.y[some], "o", **dots)
    low, high = data.x.min().item(), data.x.max().item()
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    x = torch.linspace(low - margin, high + margin, 201, dtype=F64)
    z = scene.experiment.standardized(x)
    if upto is None:
        _early(axes, scene, x, z)
    for number, run in enumerate(scene.runs):
        end = _fitted(scene, number, upto)[-1]
        which = f"{run.label}, " if len(scene.runs) > 1 else ""
        label = f"{which}step {int(run.trajectory.step[end])}"
        prediction = landscape.predict(run.path[end], z)
        axes.plot(x, prediction, label=label, gid="end", **_style(scene, number, 2.5))
    best = landscape.predict(landscape.minimiser, z)
    axes.plot(x, best, "--", color=RED, label="least squares", zorder=5, gid="best")
    axes.set(xlim=(x[0].item(), x[-1].item()), ylim=_heights(scene, best, z))
    axes.set(xlabel=_with_unit("x", data.x_unit), ylabel=_with_unit("y", data.y_unit))
    if upto is None:
        axes.set_title(scene.title_with_rates)
        figure.legend(loc="outside right upper")


def _heights(scene: Scene, best: Tensor, z: Tensor) -> tuple[float, float]:
    """From where to where the fit is shown: all data, and of the first curve what is near."""
    heights = torch.cat([scene.experiment.data.y, best])
    bottom, top = heights.min().item(), heights.max().item()
    room = top - bottom or 0.5 * abs(top) or 1.0
    start = scene.landscape.predict(scene.runs[0].path[0], z).clamp(bottom - room, top + room)
    bottom, top = min(bottom, start.min().item()), max(top, start.max().item())
    return bottom - 0.05 * room, top + 0.05 * room


def _with_unit(name: str, unit: str) -> str:
    return f"{name}  [{unit}]" if unit else name


def _fitted(scene: Scene, number: int, upto: int | None) -> list[int]:
    """The rows whose ŷ is drawn: up to seven, spaced by powers, since most happens at first.

    Of a descent that diverged, none beyond the picture of its path.
    """
    run = scene.runs[number]
    whole = upto is None and run.trajectory.stopped != "diverged"
    rows = len(run.path) if whole else _rows(scene, number, upto)
    return [int(row) - 1 for row in np.unique(np.geomspace(1, rows, 7).round())]


def _early(axes: Axes, scene: Scene, x: Tensor, z: Tensor) -> None:
    """Draw ŷ at the first run's earlier rows."""
    run, norm = scene.runs[0], _of_steps(scene.runs[0])
    for row in _fitted(scene, 0, None)[:-1]:
        step = int(run.trajectory.step[row])
        line: Style = {"color": STEPS(norm(step)), "linewidth": 1.2, "label": f"step {step}"}
        axes.plot(x, scene.landscape.predict(run.path[row], z), gid="early", **line)


def curves(figure: Figure, scene: Scene) -> None:
    """loss − minimum and the weights over the steps; of two updates, how far their weights part.

    The dashed line leaves the first point by ρ² an epoch, at which theory lets the excess shrink
    at last (see `theory.landscape.contraction`). Batches that disagree on the minimiser, or weight
    decay, stop the excess on its way.
    """
    parted = scene.parted()
    figure.set_figheight(7.5)
    heights = [3, 3, 2] if parted else [1, 1]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    panels[0].set_title(scene.title_with_rates)
    _excess_panel(panels[0], scene)
    _weight_panel(panels[1], scene)
    if parted:
        _ulp_panel(panels[2], scene, parted)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def _excess_panel(axes: Axes, scene: Scene) -> None:
    theories: dict[str, None] = {}
    for number, (run, excess) in enumerate(zip(scene.runs, scene.excess, strict=True)):
        seen = (excess > 0) & (excess < HIGHEST)
        line: Style = {"label": run.label, "gid": "excess", **_style(scene, number, 1.8)}
        axes.plot(run.trajectory.step, excess.where(seen, torch.nan), **line)
        rate = scene.rate(run)
        label = f"theory:\n×{rate:.6g} a step"
        if not seen[0] or not 0 < rate < math.inf or label in theories:
            continue
        theories[label] = None
        expected = excess[0] * rate ** run.trajectory.step.double()
        near = (expected > excess[seen].min() / 10) & (expected < 10 * excess[seen].max())
        line = {"color": BLACK, "linewidth": 1.4, "zorder": 5, "label": label, "gid": "rate"}
        axes.plot(run.trajectory.step, expected.where(near, torch.nan), "--", **line)
    if any((excess > 0).any() for excess in scene.excess):
        axes.set_yscale("log")
    axes.set_ylabel(f"loss − minimum\n{scene.loss_unit}")
    axes.legend(**ASIDE)


def _weight_panel(axes: Axes, scene: Scene) -> None:
    for number, run in enumerate(scene.runs):
        over = {"linestyle": "--"} if number else {"alpha": 0.5 if len(scene.runs) > 1 else 1.0}
        for k, (name, w) in enumerate(run.trajectory.weights.items()):
            line: Style = {**_style(scene, number, 1.8), "color": COLOURS[k % len(COLOURS)], **over}
            axes.plot(run.trajectory.step, w, label=f"{name}, {run.label}", gid=name, **line)
    if any(run.trajectory.stopped == "diverged" for run in scene.runs):
        axes.set_yscale("symlog", linthresh=scene.landscape.minimiser.abs().max().clamp(1).item())
        outer = math.floor(math.log10(max(map(abs, axes.get_ylim()))))
        ticks = [10.0**outer, 10.0 ** (outer // 2)]
        axes.set_yticks([*ticks, 0, *(-tick for tick in ticks)])
    units = filter(None, dict.fromkeys(map(scene.weight_unit, scene.names)))
    axes.set_ylabel(f"weights\n{', '.join(units)}")
    axes.legend(**ASIDE)


def _ulp_panel(axes: Axes, scene: Scene, parted: dict[str, Any]) -> None:
    for k, (name, apart) in enumerate(parted.items()):
        steps = scene.runs[0].trajectory.step[: len(apart)]
        axes.plot(steps, apart, color=COLOURS[k % len(COLOURS)], label=name, gid=f"ulps {name}")
    largest = max(apart.max() for apart in parted.values())
    outer = math.floor(math.log10(max(1.0, largest)))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.3, max(2.0, 2 * largest))
    axes.set_yticks(sorted({0.0, 1.0, 10.0 ** (outer // 2), 10.0**outer}))
    axes.set_ylabel("ULPs apart")
    first, second = (run.label for run in scene.runs[:2])
    said = f"at most {largest:g} ULPs apart" if largest else "the same bits at every step"
    axes.set_title(f"{first} against {second}: {said}", fontsize=11)
    axes.legend(**ASIDE)


def rates(figure: Figure, scene: Scene) -> None:
    """A sweep of learning rates: how far a run as long as the first one gets, and why.

    Above, loss − minimum after as many epochs from the same start; below, |ρ|, by which an epoch
    multiplies the error at last (see `theory.landscape.contraction`). The largest stable rate is
    where |ρ| passes 1.
    """
    run, stable = scene.runs[0], scene.stable
    end = max(1.25 * stable, 1.1 * run.lr if run.lr < 3 * stable else 0.0)
    count = 81 if scene.landscape.linear else 25
    sweep = torch.linspace(0, end, count, dtype=F64)[1:].tolist()
    after = scene.excess_after(sweep)
    panels = figure.subplots(1 if after is None else 2, 1, sharex=True, squeeze=False)[:, 0]
    order = ", the first epoch's order" if run.experiment.configuration.shuffle else ""
    panels[0].set_title(scene.title + order)
    if after is not None:
        _after_panel(panels[0], scene, sweep, after)
    lower = panels[-1]
    rhos = [scene.landscape.contraction(lr, **run.options) for lr in sweep]
    lower.plot(sweep, rhos, color=COLOURS[0], gid="contraction")
    lower.axhline(1, color=GREY, linewidth=1)
    own = scene.landscape.contraction(run.lr, **run.options)
    lower.plot(run.lr, own, "o", color=BLACK, gid="own")
    lower.set(xlim=(0, end), ylim=(0, max(1.2, min(2.0, max(rhos)))))
    lower.set(xlabel="learning rate α", ylabel="|ρ| of an epoch")
    marks = {f"largest stable,\nα = {stable:.6g}": stable, f"this run,\nα = {run.lr:g}": run.lr}
    for (label, lr), style in zip(marks.items(), ((RED, "--"), (BLACK, ":")), strict=True):
        for axes in panels:
            line: Style = {"color": style[0], "linestyle": style[1], "gid": label.partition(",")[0]}
            axes.axvline(lr, label=label if axes is lower else None, **line)
    figure.legend(loc="outside right upper")


def _after_panel(axes: Axes, scene: Scene, sweep: list[float], after: Tensor) -> None:
    epochs, start = scene.experiment.configuration.epochs, scene.excess[0][0].item() or 1.0
    floor = 1e-32 * start  # the square of rounding: what is below is not seen
    axes.plot(
        sweep, after.nan_to_num(math.inf).clamp(floor, HIGHEST), color=COLOURS[0], gid="after"
    )
    axes.axhline(start, color=GREY, linewidth=1, label="at the start")
    axes.set_yscale("log")
    axes.set_ylim(0.3 * max(floor, after.nan_to_num(math.inf).min().item()), 100 * start)
    noun = "epoch" if epochs == 1 else "epochs"
    axes.set_ylabel(f"loss − minimum after\n{epochs} {noun}  {scene.loss_unit}")


def animate(scene: Scene, file: Path, plane: Sequence[str] | None = None) -> None:
    """Write a GIF of the descent, on its loss graph or contour plot, beside the fit.

    At most 48 frames, 10 a second, of rows spaced more widely as the descent slows down; the last
    one stays for a second. The file is written whole or not at all.

    Raises:
        ValueError: see `Scene.plane`.
    """
    last = max(scene.inside)
    rows = (np.unique(np.geomspace(1, last, 48).round().astype(int)) - 1).tolist()
    writer = PillowWriter(fps=10)
    with replacing(file) as temporary, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.2))
        writer.setup(figure, str(temporary), dpi=70)
        for row in rows:
            _frame(figure, scene, row, plane)
            writer.grab_frame()
        for _ in range(10):
            writer.grab_frame()
        writer.finish()


def _frame(figure: Figure, scene: Scene, row: int, plane: Sequence[str] | None) -> None:
    figure.clear()
    left, right = cast(Any, figure.subfigures(1, 2))
    if len(scene.names) > 1:
        contour(left, scene, row, plane)
    else:
        loss_graph(left, scene, row)
    fit(right, scene, row)
