"""Loss and weights over the steps of a descent, and its end over other learning rates."""

import math
from dataclasses import replace

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from torchgd.figures.runs import DrawnRun, Runs, path_of, title_of
from torchgd.figures.style import BLACK, COLOURS, GREEN, GREY, HIGHEST, Style, line_of
from torchgd.proof.compare import ulps
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.rates import Rates, in_digits
from torchgd.trajectory import UNSTABLE

DASHES = ("-", "--", ":", "-.")
NAMED = 4  # stable intervals that the legend has room for
FAR_APART = 30.0  # times the first interval's end: what ends farther is not seen beside it


def curves(figure: Figure, runs: Runs) -> None:
    """loss − minimum and the weights over the steps; of two updates, how far their weights part.

    The dashed line starts at the first point and shrinks by ρ² an epoch, as theory says the excess
    does after many epochs (see `theory.landscape.contraction`). Where the batches have different
    minimisers, or with weight decay, the excess stops shrinking earlier.
    """
    asked = [replace(run.experiment.configuration, update="manual") for run in runs[:2]]
    in_update_alone = asked[1:] == asked[:1]
    figure.set_figheight(7.5)
    heights = [3, 3, 2] if in_update_alone else [1, 1]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    panels[0].set_title(title_of(runs))
    _excess_panel(panels[0], runs)
    _weight_panel(panels[1], runs)
    if in_update_alone:
        _ulp_panel(panels[2], *runs[:2])
    for axes in panels:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def _excess_panel(axes: Axes, runs: Runs) -> None:
    """Draw each run's loss − minimum, and each rate that theory predicts, once."""
    theories: set[str] = set()
    for number, run in enumerate(runs):
        step, excess = run.trajectory.step, run.excess
        seen = (excess > 0) & (excess < HIGHEST)
        line = line_of(runs, number)
        axes.plot(step, excess.where(seen, torch.nan), label=run.label, gid="excess", **line)
        # ρ² of an epoch, spread over its steps.
        rho = run.landscape.contraction(**run.experiment.options)
        rate = rho ** (2 / len(run.experiment.batches))
        label = f"theory, at last:\n×{rate:.6g} a step"
        if not seen[0] or not 0 < rate < math.inf or label in theories:
            continue
        theories.add(label)
        expected = excess[0] * rate ** step.double()
        near = (expected > excess[seen].min() / 10) & (expected < 10 * excess[seen].max())
        colour = BLACK if len(runs) == 1 else line["color"]
        style: Style = {"color": colour, "linewidth": 1.4, "zorder": 5, "gid": "rate"}
        axes.plot(step, expected.where(near, torch.nan), "--", label=label, **style)
    if any((run.excess > 0).any() for run in runs):
        axes.set_yscale("log")
    axes.set_ylabel(f"loss − minimum\n{runs[0].loss_unit}")


def _weight_panel(axes: Axes, runs: Runs) -> None:
    """Draw the weights: a colour for each run, or of one run for each weight.

    Where a run diverged, the axis is logarithmic.
    """
    for number, run in enumerate(runs):
        columns = run.trajectory.weights_at(slice(None)).T
        for k, (name, w) in enumerate(zip(run.trajectory.names, columns, strict=True)):
            line: Style = {**line_of(runs, number), "linestyle": DASHES[k % len(DASHES)]}
            if len(runs) == 1:
                line = {**line, "color": COLOURS[k % len(COLOURS)], "linestyle": "-"}
            axes.plot(run.trajectory.step, w, label=f"{name}, {run.label}", gid=name, **line)
    landscape = runs[0].landscape
    if any(run.trajectory.stopped in UNSTABLE for run in runs):
        axes.set_yscale("symlog", linthresh=landscape.minimiser.abs().max().clamp(1).item())
        outer = math.floor(math.log10(max(map(abs, axes.get_ylim()))))
        ticks = [10.0**outer, 10.0 ** (outer // 2)]
        axes.set_yticks([*ticks, 0, *(-tick for tick in ticks)])
    units = dict.fromkeys(runs[0].weight_unit(name) for name in landscape.names)
    scale = ", logarithmic" * (axes.get_yscale() == "symlog")
    axes.set_ylabel(f"weights{scale}\n{', '.join(filter(None, units))}")


def _ulp_panel(axes: Axes, a: DrawnRun, b: DrawnRun) -> None:
    """Draw how many ULPs the weights of two runs are apart, and say in words how many at most."""
    rows, largest = min(len(a.path), len(b.path)), 0.0
    columns = (run.trajectory.weights_at(slice(rows)).T for run in (a, b))
    for name, p, q in zip(a.trajectory.names, *columns, strict=True):
        apart = ulps(p, q).astype(float)
        axes.plot(a.trajectory.step[:rows], apart, label=name, gid=f"ulps {name}")
        largest = max(largest, apart.max())
    outer = math.floor(math.log10(max(1.0, largest)))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.3, max(2.0, 2 * largest))
    axes.set_yticks(sorted({0.0, 1.0, 10.0 ** (outer // 2), 10.0**outer}))
    axes.set_ylabel("ULPs apart\n(units in the last place)")
    said = f"at most {largest:g} ULPs apart" if largest else "the same bits at every step"
    axes.set_title(f"{a.label} against {b.label}: {said}", fontsize=11)


def rates(figure: Figure, runs: Runs, known: Rates) -> None:
    """Draw where a run as long as the first one ends at other learning rates, and why.

    Above, of a model that is linear in its parameters, loss − minimum after as many epochs from
    the same start; below, |ρ|, by which an epoch multiplies the error at last (see
    `theory.landscape.contraction`). The rates are stable where |ρ| is at most 1: all intervals are
    shaded, and where they are far apart the axis is logarithmic.
    """
    run = runs[0]
    landscape = run.landscape
    options = dict(run.experiment.options)
    own = options.pop("lr")
    taken = [other.experiment.options["lr"] for other in runs]
    (_, first), (_, last) = known.stable[0], known.stable[-1]
    apart = last > FAR_APART * first
    end = max([1.25 * first, 1.1 * last, *(1.1 * lr for lr in taken if lr < 3 * last)])
    start = min([first / 10, *(lr / 2 for lr in taken if lr > first / 1e4)]) if apart else 0.0
    sweep = swept(known, start, end)
    panels = figure.subplots(1 + landscape.linear, 1, sharex=True, squeeze=False)[:, 0]
    order = ", the first epoch's order" if run.experiment.configuration.shuffle else ""
    panels[0].set_title(run.title + order)
    if landscape.linear:
        _after_panel(panels[0], run, sweep)
    lower = panels[-1]
    rhos = [landscape.contraction(lr, **options) for lr in sweep]
    least = f"|ρ|, least at\nα = {in_digits(known.best)}" if known.best else "|ρ|"
    lower.plot(sweep, rhos, label=least, gid="contraction")
    lower.axhline(1, color=GREY, linewidth=1)
    lower.plot(own, landscape.contraction(own, **options), "o", color=BLACK, gid="own",
               label=f"its |ρ| at α = {own:.6g}")  # fmt: skip
    lower.set(xlim=(start, end), ylim=(0, max(1.2, min(2.0, max(rhos)))))
    lower.set(xlabel="learning rate α", ylabel="an epoch multiplies\nthe error by |ρ|")
    lower.set_xscale("log" if apart else "linear")
    for number, (low, high) in enumerate(known.stable):
        said = f"from α = {low:.6g}\nto {high:.6g}" if low else f"up to\nα = {high:.6g}"
        said = f"stable {'again ' * (number > 0)}{said}" if number < NAMED else "_"
        for axes in panels:
            axes.axvspan(max(low, start), high, label=said if axes is lower else "_",
                         color=GREEN, alpha=0.2, linewidth=0, gid="stable")  # fmt: skip
    for lr in dict.fromkeys(taken):
        alone = len(set(taken)) == 1
        colour = BLACK if alone else COLOURS[taken.index(lr) % len(COLOURS)]
        what = f"{'this' if alone else 'a'} run{' (to the right)' * (lr > end)}"
        for axes in panels:
            label = f"{what},\nα = {lr:.6g}" if axes is lower else None
            axes.axvline(lr, label=label, color=colour, linestyle=":", gid=what)
    figure.legend(loc="outside right upper")


def swept(known: Rates, start: float, end: float) -> list[float]:
    """80 rates from start to end, and each stable interval's ends and middle."""
    even = torch.linspace(0, end, 81, dtype=torch.float64)[1:].tolist()
    if start > 0:
        even = (start * (end / start) ** torch.linspace(0, 1, 81, dtype=torch.float64)).tolist()
    own = {lr for low, high in known.stable for lr in (low, (low + high) / 2, high)}
    return sorted({*even, *(lr for lr in own if start <= lr and lr > 0)})


def _after_panel(axes: Axes, run: DrawnRun, sweep: list[float]) -> None:
    """Draw loss − minimum at the descent's end against the learning rate."""
    experiment, epochs = run.experiment, run.experiment.configuration.epochs
    every = experiment.steps  # records the two ends alone
    asked = {**experiment.options, "epochs": epochs, "record_every": every}
    descents = [
        affine_trajectory(experiment.new_model(), experiment.batches, **{**asked, "lr": lr})
        for lr in sweep
    ]
    after = run.landscape.excess(torch.stack([path_of(descent)[-1] for descent in descents]))
    after = after.nan_to_num(math.inf)
    start = run.excess[0].item() or 1.0
    floor = 1e-32 * start  # the square of rounding: a smaller excess is rounding alone
    axes.plot(sweep, after.clamp(floor, HIGHEST), gid="after")
    axes.axhline(start, color=GREY, linewidth=1, label="at the start")
    axes.set_yscale("log")
    axes.set_ylim(0.3 * max(floor, after.min().item()), 100 * start)
    noun = "epoch" if epochs == 1 else "epochs"
    axes.set_ylabel(f"loss − minimum after\n{epochs} {noun}  {run.loss_unit}")
