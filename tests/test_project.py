"""What the project promises of itself: its layout, its README, its pins."""

import ast
import doctest
import graphlib
import importlib
import os
import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
from helpers import CERTIFIED, ENVIRONMENT, ROOT, Shell, ended, script, shell_of

import torchgd
from torchgd.experiment.sources import FILES, load
from torchgd.figures.play import SCRIPTS

README = (ROOT / "README.md").read_text(encoding="utf-8")


# What stands flat in torchgd/ is the lesson; each folder is a layer built on those before it.
LAYERS = ["", "proof", "theory", "experiment", "figures"]
PACKAGE = ROOT / "torchgd"


def imported(path: Path) -> set[str]:
    """The modules of torchgd that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return {name for name in names if name.partition(".")[0] == "torchgd"}


IMPORTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): imported(path)
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def layer(module: str) -> int:
    return LAYERS.index("" if module.count(".") == 1 else module.split(".")[1])


def test_no_layer_imports_a_later_one() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.suffix == ""} - {"__pycache__"} == {
        *LAYERS[1:], "datasets"
    }  # fmt: skip
    for module, others in IMPORTS.items():
        if module != "torchgd.datasets.__init__":
            for other in others:
                assert layer(other) <= layer(module), f"{module} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    list(graphlib.TopologicalSorter(IMPORTS).static_order())


def test_the_lesson_is_in_reading_order() -> None:
    assert torchgd.__doc__ is not None
    listed = torchgd.__doc__.partition("before it:")[2].partition(".")[0].strip()
    order = [f"torchgd.{name}" for name in re.split(r",\s+", listed)]
    assert set(order) == {module for module in IMPORTS if module.count(".") == 1}
    for k, module in enumerate(order):
        assert IMPORTS[module] <= set(order[:k]), module


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("tensorboard", "torchgd.experiment"),
        ("matplotlib", "torchgd.figures"),
        ("tqdm", "torchgd.experiment"),
    ],
)
def test_a_library_has_one_owner(library: str, owner: str) -> None:
    users = [
        ".".join(path.relative_to(ROOT).parent.parts)
        for path in PACKAGE.rglob("*.py")
        if re.search(
            rf"^\s*(from|import) \S*\b{library}\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert set(users) <= {owner}


def test_the_public_names() -> None:
    assert all(hasattr(torchgd, name) for name in torchgd.__all__)
    assert set(torchgd.__all__) >= {
        "Model", "Linear", "Quadratic", "manual_gradient", "autograd_gradient", "ManualSGD",
        "Batches", "Trajectory", "descend", "train", "check_gradient", "check_optimizer", "compare",
        "affine_trajectory", "compiled_trajectory",
    }  # fmt: skip


def test_every_data_file_names_its_source() -> None:
    sources = (files("torchgd.datasets") / "SOURCES.md").read_text(encoding="utf-8")
    for name in FILES:
        assert f"| {name}.csv | {len(load(name).x)} |" in sources


def test_nothing_else_stands_at_the_top() -> None:
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert there - {"torchgd.egg-info"} == {
        "README.md", "pyproject.toml", "runs", "scripts", "tests", "torchgd",
    }  # fmt: skip


def test_the_pages_script_is_whole_and_can_be_read() -> None:
    """Each of its files is in it, none is above 260 lines, and no line above 100 characters."""
    folder = PACKAGE / "figures" / "javascript"
    assert {f"{name}.js" for name in SCRIPTS} == {path.name for path in folder.iterdir()}
    for path in [*folder.iterdir(), PACKAGE / "figures" / "play.html"]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 260, path
        assert max(map(len, lines)) <= 100, path


def test_the_readme_is_short() -> None:
    assert README.count("\n") < 150


CONSOLE = re.findall(
    r"```console\n\$ python scripts/(\w+)\.py([^\n]*)\n(.*?)```", README, re.DOTALL
)


shell = shell_of(lambda words: importlib.import_module(words[0]).main(words[1:]))  # any script


@pytest.mark.parametrize(("script", "command", "shown"), CONSOLE)
def test_the_readme_shows_what_the_commands_print(
    shell: Shell, script: str, command: str, shown: str
) -> None:
    more = ["--device", "cpu", *(["--no-figures"] if script == "train" else [])]
    shell(script, *shlex.split(command), *more)
    assert shown in (shell.out, shell.err.partition("\n")[2])


def test_the_readme_has_those_examples() -> None:
    assert len(CONSOLE) == 2


def test_the_readmes_python_runs() -> None:
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


def test_the_readmes_pictures_are_there() -> None:
    shown = re.findall(r"^!\[.*\]\((.*)\)$", README, re.MULTILINE)
    assert shown[0] == "runs/reference/full-batch.svg"
    assert README.index(shown[0]) < README.index("python3 -m venv")
    assert all((ROOT / path).is_file() for path in shown)


def test_the_readme_quotes_the_certified_answer() -> None:
    answer = CERTIFIED["norris"]["certified"]
    assert f"w = {answer['w']}, b = {answer['b'].replace('-', '−')}." in README


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a process alone")
@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "scripts").glob("*.py")
                                  if path.stem not in ("interrupt", "peers")])  # fmt: skip
def test_ctrl_c_while_a_script_imports(tmp_path: Path, name: str) -> None:
    """It comes as torch, which stands in for all that takes long, is imported."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    paths = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    file = ROOT / "scripts" / f"{name}.py"
    assert ended(script(tmp_path, file=file, PYTHONPATH=paths)) == (130, "", "")
