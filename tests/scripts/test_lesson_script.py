"""scripts/lesson.py: what it says is what was computed, and its path is that of `train`."""

import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, Shell, same_trajectory, shell_of

from torchgd import Batches, Linear, ManualSGD, Quadratic, affine_trajectory, train
from torchgd.experiment.sources import load
from torchgd.figures import page

LESSON = ROOT / "scripts" / "lesson.py"
CELLS = page.cells(LESSON.read_text(encoding="utf-8"))
TITLES = [cell.title for cell in CELLS]
F64 = torch.float64
shell = shell_of(lambda argv: page.main(str(LESSON), argv))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Any]]:
    """What each cell said, by title, and what all of them left."""
    said: dict[str, str] = {}
    names: dict[str, Any] = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lesson"))
        for cell in CELLS:
            with redirect_stdout(io.StringIO()) as out:
                page.run(cell, str(LESSON), names)
            said[cell.title] = out.getvalue()
        yield said, names


def test_its_paths_are_those_of_train(lesson: tuple[dict[str, str], Any]) -> None:
    """And the ten lines', to the bit at every step; on the lesson's numbers no rounding shows."""
    _, names = lesson
    model = Linear(dtype=F64)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    expected = train(model, Batches(x, 2 * x), ManualSGD(model.parameters(), lr=0.01))
    assert same_trajectory(names["manual"].trajectory, expected)
    assert same_trajectory(names["autograd"], expected)
    path, w = [], 1.0
    for _ in range(50):
        for xn in (1.0, 2.0, 3.0):
            path.append(w)
            w = w - 0.01 * (2 * xn * (xn * w - 2 * xn))
    assert path == expected.weights["w"][:-1].tolist()


def best_rate() -> float:
    """2/(λ_min + λ_max) of the standardised cars."""
    x, _ = load("cars").x, None
    z = (x - x.mean()) / x.std(correction=0)
    phi = torch.stack([z**2, z, torch.ones_like(z)], dim=1)
    low, *_, high = torch.linalg.eigvalsh(2 / len(z) * phi.T @ phi).tolist()
    return 2 / (low + high)


def least_loss() -> float:
    """Of a parabola through the cars."""
    data = load("cars")
    phi = torch.stack([data.x**2, data.x, torch.ones_like(data.x)], dim=1)
    return float((phi @ torch.linalg.lstsq(phi, data.y).solution - data.y).square().mean())


def parabola() -> list[float]:
    x = torch.linspace(-2, 2, 21, dtype=F64)
    batches = Batches(x, 3 * x**2 + 2 * x + 1, 21)
    path = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, 300)
    return [w[-1].item() for w in path.weights.values()]


EPOCH = math.prod(1 - 0.02 * x**2 for x in (1, 2, 3))  # of w − 2, one sample a step
MEAN = 1 - 0.02 * 14 / 3
# The numbers of each cell's sentences, in their order. A formula's, such as the 2 in 2x, and a
# name's, such as the 1 in w1, are none.
NUMBERS: dict[str, list[float]] = {
    "The whole lesson in ten lines": [2 - EPOCH**50, 4, 8 - 4 * EPOCH**50],
    "A model, a guess, its loss": [
        *(n for x in (1, 2, 3) for n in (x, 1, x, 2 * x, x**2)), 14 / 3, 2, 0
    ],
    "The loss graph": [],
    "The slope, by hand and by a small step": [1, -28 / 3, 1, 1, 1, -28 / 3, 1e-6],
    "One step, with all its numbers": [2, 1, 1, 1, 2, -2, 1, 0.01, -2, 1.02, 2],
    "The same with PyTorch: nn.Module, autograd and torch.optim.SGD": [2 - EPOCH**50],
    "That loop again, with each step recorded": [150, 0, 150],
    "The learning rate: too small, right, best, too large": [
        0.001, 2, math.prod(1 - 0.002 * x**2 for x in (1, 2, 3)), 50,
        -math.prod(1 - 0.002 * x**2 for x in (1, 2, 3)) ** 50,
        0.01, 2, EPOCH, 50, -EPOCH**50,
        1 / 18, 2, 0, 50, 0,
        0.21, 2, math.prod(1 - 0.42 * x**2 for x in (1, 2, 3)), 50,
        -math.prod(1 - 0.42 * x**2 for x in (1, 2, 3)) ** 50,
        2, 1, 3, 0, 1, 18, 1 / 18, 2, 2, 1, 8, 1, 1, 2, 1, 18, 3, 1, 9, 1 / 9,
        0.204018, 0.476538, 0.519014, 1, 2,
    ],
    "One sample a step against the mean": [50, 2 - EPOCH**50, 150, 2 - MEAN**50, 50],
    "Exercise 3.2: descend on the parabola": [1, 21, 300, *parabola()],
    "Real data": [50, best_rate(), 100, least_loss(), least_loss()],
    "What people get wrong": [
        2 - (1 - 0.01 * 14 / 3) ** 50, 2 - MEAN**50, 2 - (1 - 0.06 * 14 / 3) ** 50, 2 - MEAN**50,
        1, 2.98764, 2 - MEAN**50, 2 - (2 - MEAN) ** 50, 2 - MEAN**50
    ],
}  # fmt: skip
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)"


@pytest.mark.parametrize("title", NUMBERS)
def test_every_number_that_it_says(title: str, lesson: tuple[dict[str, str], Any]) -> None:
    said = "\n".join(line for line in lesson[0][title].splitlines() if "picture: " not in line)
    found = [float(text) for text in re.findall(NUMBER, said.replace("−", "- "))]
    assert found == pytest.approx(NUMBERS[title], rel=1e-3, abs=1e-9)


def test_the_rest_says_what_the_scripts_say(lesson: tuple[dict[str, str], Any]) -> None:
    said, _ = lesson
    assert {*NUMBERS, "The loop", "Exercise 3.1, asked", "Exercise 3.1, answered and proven"} == {
        *TITLES
    }
    assert "  \t grad: 1 2 -2.0\n" in said["The loop"]
    assert said["The loop"].endswith("predict (after training) 4 hours 7.999998894782476\n")
    answered = said["Exercise 3.1, answered and proven"]
    for factor in ("2x²", "2x", "2"):
        assert f"= {factor}(x²·w2 + x·w1 + b − y) " in answered
        assert f"= {factor}(" not in said["Exercise 3.1, asked"]
    assert answered.count("yes") == 9
    assert "are the same to the last bit: True" in "".join(said.values())
    assert "It ends at the same bits: True" in "".join(said.values())
    assert "By hand and by autograd the same bits: True" in "".join(said.values())


@pytest.mark.parametrize("error", [EOFError(), RuntimeError("input(): lost sys.stdin")])
def test_a_cell_at_a_time(shell: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Enter three times, and then the end of what is typed."""
    answers, shown = iter(["", "", ""]), []

    def typed(prompt: str) -> str:
        shown.append(prompt)
        for answer in answers:
            return answer
        raise error

    monkeypatch.setattr("builtins.input", typed)
    assert shell("--step") == 2
    assert shell.err == (
        "lesson.py: no more Enter to wait for: leave --step out, add --answers, and all cells run\n"
    )
    assert shown == [f"\n{k}. {title}  [Enter]" for k, title in enumerate(TITLES[:4], start=1)]
    assert Path("runs/lesson/1-loss-graph.svg").is_file()


def test_as_a_page(shell: Shell) -> None:
    assert shell("--html", "page.html") == 0
    text = Path("page.html").read_text(encoding="utf-8")
    assert text.count("<section>") == len(CELLS)
    assert text.count("<img ") == len(list(Path("runs/lesson").iterdir())) == 6
    assert "<pre>         symbolic" not in text
    answer = re.findall(r"<details><summary>The answer</summary>(.*?)</details>", text, re.DOTALL)
    assert len(answer) == 1
    assert re.search(r"<pre>ŷ         = x²·w2 \+ x·w1 \+ b +the model\n", answer[0])
    assert "2x²(ŷ − y)" not in text.replace(answer[0], "")
    seen = re.findall('<img alt="(.*?)"', text)
    assert all(len(words.split()) > 5 for words in seen)
    assert text.count("<div class=wide><img") == 3
    assert "color-scheme: light dark" in text
    shown = re.findall("<details open><summary>Python</summary><pre>(.*?)</pre>", text, re.DOTALL)
    assert len(shown) == 2
    four = "optimizer.zero_grad() .* error.backward() .* optimizer.step() "
    assert re.search(re.escape(four).replace(r"\ \.\*\ ", ".*"), shown[1], re.DOTALL)


def test_the_two_pages_link_to_each_other(shell: Shell) -> None:
    """Where the README has them: runs/lesson.html and runs/reference/lesson.html."""
    Path("small.py").write_text('"""Small."""\n# %% One\nprint(1)\n', encoding="utf-8")
    small = Shell(lambda argv: page.main("small.py", argv), shell.folder, shell.capsys)
    Path("runs/reference").mkdir(parents=True)
    for there in (False, True):
        if there:
            Path("runs/reference/lesson.html").write_text("", encoding="utf-8")
        assert small("--html", "runs/lesson.html") == 0
        text = Path("runs/lesson.html").read_text(encoding="utf-8")
        assert ('<a href="reference/lesson.html">' in text) == there
    played = (ROOT / "runs" / "reference" / "lesson.html").read_text(encoding="utf-8")
    assert '<a href="../lesson.html">' in played


@pytest.mark.parametrize("at_a_terminal", [False, True])
def test_the_answer_comes_when_it_is_asked_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, at_a_terminal: bool
) -> None:
    asked: list[str] = []
    source = '# %% One\nprint(1)\n# %% Two tags=["answer"]\nprint(2)\n# %% Three\nprint(3)\n'
    Path("small.py").write_text(source, encoding="utf-8")
    small = Shell(lambda argv: page.main("small.py", argv), shell.folder, shell.capsys)

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return ""

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: at_a_terminal, raising=False)
    assert small() == 0
    if at_a_terminal:
        assert asked == ["\n2. Two  [Enter]"]
        assert small.out == "\n1. One\n1\n2\n\n3. Three\n3\n"
    else:
        assert asked == []
        assert small.out == "\n1. One\n1\n\n2. Two: --answers shows it\n\n3. Three\n3\n"
    assert small("--answers") == 0
    assert small.out == "\n1. One\n1\n\n2. Two\n2\n\n3. Three\n3\n"


def test_as_a_notebook(shell: Shell) -> None:
    assert shell("--notebook", "lesson.ipynb") == 0
    found = json.loads(Path("lesson.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]) for cell in code] == [cell.code.strip() for cell in CELLS]
    words = ["".join(c["source"]) for c in found["cells"] if c["cell_type"] == "markdown"]
    assert words[1:] == [f"## {title}" for title in TITLES]
    tagged = [cell["metadata"] for cell in code if cell["metadata"]["tags"]]
    hidden = {"tags": ["answer"], "jupyter": {"source_hidden": True}}
    assert tagged == [{"tags": ["open"]}, {"tags": ["open"]}, hidden]


def test_the_notebook_runs(shell: Shell) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    assert shell("--notebook", "lesson.ipynb") == 0
    found = nbformat.read("lesson.ipynb", as_version=4)
    nbformat.validate(found)
    done = nbclient.NotebookClient(found, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "are the same to the last bit: True" in said
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) == 6


@pytest.mark.parametrize(("words", "message"), [
    ("--html none/page.html", "--html none/page.html: give a file's name, in a directory that is "
     "there"),
    ("--html .", "--html .: give a file's name, in a directory that is there"),
    ("--html=", "--html .: give a file's name, in a directory that is there"),
    ("--htm page.html", "unrecognized arguments: --htm page.html"),
    ("--step --html page.html", "argument --html: not allowed with argument --step"),
    ("--notebook none/n.ipynb", "--notebook none/n.ipynb: give a file's name, in a directory that "
     "is there"),
])  # fmt: skip
def test_bad_requests_end_in_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.setattr(page, "page", lambda path: "")
    assert shell(*words.split()) == 2
    assert shell.err == f"lesson.py: {message}\n"
