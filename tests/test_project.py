"""What the project promises of itself: its layout, its README, its pins."""

import ast
import doctest
import importlib
import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
from helpers import CERTIFIED

import torchgd
from torchgd.data import FILES, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def reading_order() -> list[str]:
    assert torchgd.__doc__ is not None
    listed = torchgd.__doc__.partition("before it:")[2].strip().removesuffix(".")
    return re.split(r",\s+", listed)


def test_nothing_imports_upward() -> None:
    order = reading_order()
    modules = {path.stem: path for path in (ROOT / "torchgd").glob("*.py")}
    assert set(order) == set(modules) - {"__init__"}
    for name in order:
        for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            for module in imported:
                if module.partition(".")[0] == "torchgd":
                    earlier = module.removeprefix("torchgd.")
                    assert order.index(earlier) < order.index(name), f"{name} imports {module}"


@pytest.mark.parametrize(
    ("library", "owner"), [("tensorboard", "tracking"), ("matplotlib", "plots"), ("tqdm", None)]
)
def test_a_library_has_one_owner(library: str, owner: str | None) -> None:
    users = [
        path.stem
        for path in (ROOT / "torchgd").glob("*.py")
        if re.search(
            rf"^\s*(from|import) \S*\b{library}\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert users == ([owner] if owner else [])


def test_the_public_names() -> None:
    assert all(hasattr(torchgd, name) for name in torchgd.__all__)
    assert set(torchgd.__all__) >= {
        "Model", "Linear", "Quadratic", "manual_gradient", "autograd_gradient", "ManualSGD",
        "Batches", "Trajectory", "train", "compare", "check_gradient",
    }  # fmt: skip


def test_every_data_file_names_its_source() -> None:
    sources = (files("torchgd.datasets") / "SOURCES.md").read_text(encoding="utf-8")
    for name in FILES:
        assert f"| {name}.csv | {len(load(name).x)} |" in sources


def test_the_readme_is_short() -> None:
    assert README.count("\n") < 150


CONSOLE = re.findall(
    r"```console\n\$ python scripts/(\w+)\.py([^\n]*)\n(.*?)```", README, re.DOTALL
)


@pytest.mark.parametrize(("script", "command", "shown"), CONSOLE)
def test_the_readme_shows_what_the_commands_print(
    script: str,
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"train": ["--device", "cpu", "--no-figures"], "derive": ["--device", "cpu"]}
    importlib.import_module(script).main([*shlex.split(command), *more.get(script, [])])
    out, err = capsys.readouterr()
    assert shown in (out, err.partition("\n")[2])


def test_the_readme_has_those_examples() -> None:
    assert len(CONSOLE) == 2


def test_the_readmes_python_runs() -> None:
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


def test_the_readmes_pictures_are_there() -> None:
    shown = re.findall(r"^!\[.*\]\((.*)\)$", README, re.MULTILINE)
    assert shown[0] == "runs/reference/loss.svg"
    assert README.index(shown[0]) < README.index("python3 -m venv")
    assert all((ROOT / path).is_file() for path in shown)


def test_the_readme_quotes_the_certified_answer() -> None:
    answer = CERTIFIED["norris"]["certified"]
    assert f"w = {answer['w']}, b = {answer['b'].replace('-', '−')}." in README
