"""The descent on its loss graph or contour plot.

Each function draws on the figure or axes that it is given. In a frame of an animation, `upto` is
the last row that is drawn.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchgd.figures.paths import draw_paths, rows_shown
from torchgd.figures.runs import DrawnRun, Runs, title_of
from torchgd.figures.style import BLACK, GREEN, GREY, RED, STEPS, Style, scale_of
from torchgd.theory.landscape import Landscape

F64 = torch.float64
STAR: Style = {"color": RED, "markersize": 15, "zorder": 8, "gid": "minimiser"}


def descent(
    figure: FigureBase, runs: Runs, upto: int | None = None, plane: list[str] | None = None
) -> None:
    """The loss graph or, of several parameters, the contour plot.

    Beside it are the steps' colours and the legend; a frame of an animation has neither.

    Raises:
        ValueError: the plane is not of two of the parameters.
    """
    axes, first = figure.add_subplot(), runs[0]
    if len(first.landscape.names) == 1:
        loss_graph(axes, runs, upto)
    else:
        contour(axes, runs, upto, plane)
    if upto is not None:
        axes.set_title(_where(first, rows_shown(first, upto) - 1))
        return
    axes.set_title(title_of(runs))
    if len(runs) == 1:
        scale, ticks = ScalarMappable(scale_of(first), STEPS), MaxNLocator(integer=True)
        figure.colorbar(scale, ax=axes, label="step", pad=0.02, aspect=30, ticks=ticks)
    figure.legend(loc="outside right upper")


def _where(run: DrawnRun, row: int) -> str:
    """Write a row's step, weights and loss over all data."""
    weights = ", ".join(
        f"{name} = {w:.6g}"
        for name, w in zip(run.landscape.names, run.path[row].tolist(), strict=True)
    )
    loss = run.landscape.minimum + run.excess[row].item()
    return f"step {run.trajectory.step[row]}: {weights}, loss = {loss:.4g}"


def loss_graph(axes: Axes, runs: Runs, upto: int | None) -> None:
    """loss(w) over the only parameter w, and the descent on it.

    A point is a row of the trajectory: the weight before a step, and the loss of that step's batch
    there. The point lies on the curve of this batch, and the step goes down the tangent there. No
    step starts from the last weight: its point lies on the curve of all samples.
    """
    first, landscape = runs[0], runs[0].landscape
    middle, lowest = landscape.minimiser.item(), landscape.minimum
    half = 1.15 * max(abs(end.item() - middle) for end in _reach(runs))
    w = torch.linspace(middle - half, middle + half, 201, dtype=F64)
    if len(landscape.batches) > 1:
        _batch_curves(axes, landscape, w)
    mean = lowest + landscape.excess(w[:, None])
    axes.plot(w, mean, color=BLACK, label="loss(w) over all samples", gid="loss")
    points = [torch.stack([run.path[:, 0], _losses(run)]) for run in runs]
    axes.plot(middle, lowest, "*", label=f"minimiser w* = {middle:.6g}", **STAR)
    seen = torch.cat([loss[: run.inside] for run, (_, loss) in zip(runs, points, strict=True)])
    room = seen[seen.isfinite()].max().item() - lowest or mean.max().item()
    axes.set(xlim=(middle - half, middle + half), ylim=(lowest - 0.06 * room, lowest + 1.08 * room))
    draw_paths(axes, runs, points, upto)
    if upto is None:
        lines = _tangents(axes, first, slice(3), half / 8, linewidth=1.5, zorder=4)
        for line in lines[:1]:
            line.set_label("tangents of the first steps")
    else:
        row = rows_shown(first, upto) - 1
        _tangents(axes, first, slice(row, row + 1), half / 4, linewidth=2, zorder=6)
    axes.set_xlabel(f"w  {first.weight_unit(landscape.names[0])}")
    axes.set_ylabel(f"loss = (1/N) Σ (ŷ − y)²  {first.loss_unit}")


def _losses(run: DrawnRun) -> Tensor:
    """Each row's recorded loss and, for the last weights, the loss over all data."""
    last = run.landscape.loss(run.path[-1:])
    return torch.cat([run.trajectory.loss.double(), last])


def _batch_curves(axes: Axes, landscape: Landscape, w: Tensor) -> None:
    """Draw the losses of single batches: of all of them where they are few."""
    batches = landscape.batches
    what = "sample" if len(batches[0][1]) == 1 else "batch"
    some = np.linspace(0, len(batches) - 1, min(len(batches), 12)).round().astype(int).tolist()
    losses = torch.stack([landscape.loss(w[:, None], batch=n) for n in some], dim=1)
    first, *_ = axes.plot(w, losses, color=GREY, linewidth=1, gid="batch")
    first.set_label(f"loss(w) of one {what}")


def _tangents(axes: Axes, run: DrawnRun, rows: slice, half: float, **style: Any) -> list[Line2D]:
    """Draw the tangents of some steps: their slope is the recorded ∂loss/∂w."""
    part = run.trajectory[rows]  # the last row has no step, and so no tangent
    (loss, w, slopes), along = part.table.T, torch.tensor([[-half], [half]], dtype=F64)
    x, y = w + along, loss + slopes * along
    return axes.plot(x, y, color=RED, gid="tangent", **style)


def contour(axes: Axes, runs: Runs, upto: int | None, plane: list[str] | None) -> None:
    """The loss's level lines over two parameters, and the descent projected on their plane.

    The other parameters are where the loss is least for these two or, of a model that is not linear
    in them, as at the minimiser. The level lines' principal axes are dashed. A descent in two
    parameters overshoots first along the axis with the larger curvature λ, and is slowest along the
    other.
    """
    landscape = runs[0].landscape
    ij = plane_of(runs, plane)
    (x0, y0), (x1, y1) = _window(runs, ij)
    # The window grows where both axes get one scale, so the level lines reach beyond it.
    count = 241 if landscape.linear else 121
    u = torch.linspace(2 * x0 - x1, 2 * x1 - x0, count, dtype=F64)
    v = torch.linspace(2 * y0 - y1, 2 * y1 - y0, count, dtype=F64)
    height = _heights(landscape, ij, u, v)
    top = height[height.isfinite()].max().item()
    levels = np.geomspace(1e-5 * top, top, 16) if top > 0 else [0.0, 1.0]
    axes.contour(u, v, height.clamp(max=top), levels=levels, colors=GREY, linewidths=0.8)
    others = "their best for each pair" if landscape.linear else "the minimiser"
    said = f",\nthe other weights at {others}" * (len(landscape.names) > 2)
    axes.plot([], [], color=GREY, linewidth=0.8, label=f"level lines of the loss{said}")
    _principal_axes(axes, landscape, ij, 2 * max(x1 - x0, y1 - y0))
    axes.plot(*landscape.minimiser[ij], "*", label="minimiser", **STAR)

    def look() -> None:
        axes.set_xlim(x0, x1, auto=None)  # None leaves an equal aspect free to widen it
        axes.set_ylim(y0, y1, auto=None)

    look()
    draw_paths(axes, runs, [run.path[:, ij].T for run in runs], upto)
    look()  # again, for drawing the paths may have changed the limits
    if 1 / 6 < (x1 - x0) / (y1 - y0) < 6:  # one scale for both shows the axes at right angles
        axes.set_aspect("equal", adjustable="datalim")
    x, y = (f"{name}  {runs[0].weight_unit(name)}" for name in (landscape.names[k] for k in ij))
    axes.set(xlabel=x, ylabel=y)


def _heights(landscape: Landscape, ij: list[int], u: Tensor, v: Tensor) -> Tensor:
    """Return loss − minimum (V, U) over two of the weights, u (U,) and v (V,); see `contour`."""
    points = torch.cartesian_prod(v, u).flip(1)
    if landscape.linear:
        distance = points - landscape.minimiser[ij]
        height = (distance @ _root_over(landscape, ij).T).square().sum(dim=1)
    else:
        weights = landscape.minimiser.repeat(len(points), 1)
        weights[:, ij] = points
        height = landscape.excess(weights)
    return height.reshape(len(v), len(u))


# min over d_o of ‖Φ_o d_o + Φ_ij d_ij‖² is reached at d_o = −Φ_o⁺Φ_ij d_ij.
def _root_over(landscape: Landscape, ij: list[int]) -> Tensor:
    """A matrix M (K, 2) for two weights: their distance d from w* adds ‖Md‖² to the loss.

    The other weights are where it is least for these two.
    """
    rest = [k for k in range(len(landscape.names)) if k not in ij]
    own, others = landscape.root[:, ij], landscape.root[:, rest]
    length = others.norm(dim=0)
    others = others / length.where(length > 0, 1.0)
    return own - others @ torch.linalg.lstsq(others, own, driver="gelsd").solution if rest else own


def plane_of(runs: Runs, chosen: list[str] | None) -> list[int]:
    """Return the two parameters of a contour plot.

    If none are chosen, they are the two with the largest H_kk·(w_k − w*_k)² on the path: this is
    twice what parameter k alone adds to the loss.
    """
    landscape, names = runs[0].landscape, runs[0].landscape.names
    if chosen is None:
        seen = torch.cat([run.path[: run.inside] for run in runs])
        way = (seen - landscape.minimiser).square().amax(dim=0)
        costs = landscape.hessian.diagonal() * way
        return sorted(costs.argsort(descending=True, stable=True)[:2].tolist())
    if len(chosen) != 2 or len({*chosen} & {*names}) != 2:
        raise ValueError(
            f"plane {','.join(chosen)!r}: give two of the parameters {', '.join(names)}, "
            "separated by a comma"
        )
    return [names.index(name) for name in chosen]


def _window(runs: Runs, ij: list[int]) -> list[list[float]]:
    """Return the corners of the plot: the reach of each parameter, at a scale near the other's."""
    low, high = (end[ij] for end in _reach(runs))
    middle, size = (low + high) / 2, high - low
    other = size.flip(0)
    like = other.where(other < 6 * size, 0.0)
    half = 0.62 * size.maximum(like / 1.4)
    return [(middle - half).tolist(), (middle + half).tolist()]


def _reach(runs: Runs) -> tuple[Tensor, Tensor]:
    """Return each parameter's least and largest value (P,) in the picture, with the minimiser."""
    seen = [run.path[: run.inside] for run in runs]
    low, high = torch.cat([*seen, runs[0].landscape.minimiser[None]]).aminmax(dim=0)
    room = (0.5 * high.abs()).where(high != 0, 1.0)
    margin = room.where(high - low <= 1e-12 * high.abs(), 0.0)
    return low - margin, high + margin


def _principal_axes(axes: Axes, landscape: Landscape, ij: list[int], length: float) -> None:
    """Draw the Hessian's eigenvectors in the plane through the minimiser, as lines."""
    hessian = landscape.hessian[ij][:, ij]
    whose = "the Hessian" if len(landscape.names) == 2 else "the level lines"
    if landscape.linear:
        root = _root_over(landscape, ij)
        hessian = 2 * root.T @ root
    curvatures, vectors = torch.linalg.eigh(hessian)
    for curvature, vector, dashes in zip(curvatures, vectors.T, ((1, 2), (5, 3)), strict=True):
        ends = landscape.minimiser[ij] + length * vector * torch.tensor([[-1.0], [1.0]])
        line: Style = {"color": GREEN, "linewidth": 1.4, "dashes": dashes, "gid": "axis"}
        label = f"principal axis of {whose}:\ncurvature λ = {curvature:.3g}"
        axes.plot(*ends.T, scalex=False, scaley=False, label=label, **line)
