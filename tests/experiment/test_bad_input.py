"""Everything that a careless or hostile user can give train.py is refused in one line."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import train
from helpers import EXPONENTIAL, ROOT, Shell
from hypothesis import given
from hypothesis import strategies as st

from torchgd.experiment import experiment, resolve

TABLE = (ROOT / "tests" / "data" / "bad_input.txt").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if line and not line.startswith("#")]
REFUSED = dict(zip(ROWS[::2], ROWS[1::2], strict=True))
assert len(REFUSED) == len(ROWS) / 2 >= 80
if sys.version_info < (3, 11):
    REFUSED["--data nul.csv"] = (
        "    nul.csv: not a CSV file (line contains NUL); give two columns, x,y"
    )

# A model that is right, and the one method of each wrong one.
RIGHT = """
import torch
from torchgd import Model

class W(Model):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))

    def forward(self, x):
        return self.w * x

    def partials(self, x):
        return {"w": x}
"""
WRONG = {
    "Nothing": "__init__(self, **options): Model.__init__(self)",
    "NaN": 'partials(self, x): return {"w": torch.where(x > 1, float("nan"), x)}',
    "Listed": "partials(self, x): return [x]",
    "Silent": "partials(self, x): return None",
    "NumPy": 'partials(self, x): return {"w": x.numpy()}',
    "Returnless": "forward(self, x): return None",
    "Column": "forward(self, x): return (self.w * x)[:, None]",
    "Endless": "forward(self, x): return self.forward(x)",
    "OnMeta": 'partials(self, x): return {"w": torch.empty_like(x, device="meta")}',
    "Sparse": "forward(self, x): return (self.w * x).to_sparse()",
    "Logical": 'partials(self, x): return {"w": x > 0}',
    "Mute": "forward(self, x): raise Unspeakable",
    "Base": "forward(self, x): raise GeneratorExit('no')",
    "Lazy": "__init__(self, **options): Model.__init__(self); "
            "self.w = torch.nn.UninitializedParameter()",
    "Surrogate": "__init__(self, **options): Model.__init__(self); "
                 "self.register_parameter('w\\ud800', torch.nn.Parameter(torch.tensor(1.0)))",
    "Noisy": "forward(self, x): return self.w * x + torch.rand_like(x)",
}  # fmt: skip
UNSPEAKABLE = """
class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

class Property(W):
    @property
    def partials(self):
        return {"w": 1.0}

"""
MODELS = [
    RIGHT,
    UNSPEAKABLE,
    *(f"class {name}(W):\n    def {method}\n" for name, method in WRONG.items()),
]


def npy(shape: str) -> bytes:
    """The beginning of a .npy file whose header says that it has this shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00v\x00" + header.encode().ljust(117) + b"\n" + bytes(64)


FILES: dict[str, str | bytes] = {
    "empty.csv": "",
    "header.csv": "x,y\n",
    "word.csv": "x,y\n1,2\n3,four\n",
    "nan.csv": "x,y\n1,nan\n",
    "inf.csv": "x,y\n1,2\n2,inf\n",
    "three.csv": "1,2,3\n",
    "one.csv": "x,y\n1,2\n",
    "huge.csv": "x,y\n1,2\n1e300,2\n",
    "flat.csv": "1,2\n1,3\n",
    "syntax.py": "class Mine(:\n",
    "mine.py": EXPONENTIAL
    + "class Other: pass\nclass Needy(Model):\n    def __init__(self, n): pass\n",
    "lacks.py": EXPONENTIAL.replace('"k": self.a * x * e', ""),
    "shape.py": EXPONENTIAL.replace('"a": e', '"a": e[:, None]'),
    "unused.py": EXPONENTIAL.replace("self.a * torch", "torch"),
    "vector.py": EXPONENTIAL.replace("tensor(1.0", "tensor([1.0]"),
    "vectors.py": EXPONENTIAL.replace("tensor(1.0", "tensor([1.0, 2.0]"),
    "frozen.py": EXPONENTIAL.replace("dtype=dtype))", "dtype=dtype), requires_grad=False)", 1),
    "single.py": EXPONENTIAL.replace("dtype=dtype", "dtype=torch.float32"),
    "texts.py": EXPONENTIAL.replace('"a": e', '"a": "1.0"'),
    "exits.py": "raise SystemExit(5)\n",
    "units.py": EXPONENTIAL + "    def in_original_units(self, mean, deviation):\n"
    "        return {'q': 1.0}\n",
    "nothing.py": EXPONENTIAL + "    def in_original_units(self, mean, deviation):\n"
    "        return None\n",
    "large.csv": "1e200,1\n2e200,2\n",
    "tiny.csv": "1e-200,1\n2e-200,2\n",
    "raises.py": EXPONENTIAL.replace("e = torch", "raise KeyError('a\\nb')\n        e = torch"),
    "models.py": "".join(MODELS),
    "book.xlsx": b"PK\x03\x04 and more",
    "book.xls": b"\xd0\xcf\x11\xe0 and more",
    "many.csv": "hours,sleep,score\n1,8,2\n2,7,4\n",
    "twice.csv": "a,a,b\n1,2,3\n",
    "ragged.csv": "1;2\n\n3;4;5\n",
    "thousands.csv": "x;y\n1.234,5;2\n",
    "bars.csv": "x|y\n1|2\n",
    "decimal.csv": 'x,y\n"1,5","2,5"\n',
    "underscore.csv": "x,y\n1_000,2\n",
    "hexadecimal.csv": "0x10,2\n",
    "digits.csv": f"x,y\n{'9' * 400},2\n",
    "long.csv": f"x,y\n{'a' * 5000},2\n",
    "spaces.csv": "1 000,2\n1,2\n",
    "first.csv": "1,two\n3,4\n",
    "column.csv": "1\n2\n",
    "open.csv": '1,2\n"3,4\n',
    "nul.csv": "x,y\n1\0,2\n",
    "trailing.csv": "x,y\n1,2,\n",
    "quote.csv": 'x,y\n"1"x,2\n',
    "years.csv": "2019,2020\n1,2\n",
    "separator.csv": "sep=ab\nx,y\n1,2\n",
    "gap.csv": "x,y\n1,2\n,3\n",
    "utf16.csv": "x,y\n1,2\n".encode("utf-16"),
    "latin.csv": "é,y\n1,2\n".encode("latin-1"),
    "zeros.csv": "x,y\n0,1\n0,2\n",
    "same.csv": "x,y\n2,1\n2,3\n2,5\n",
    "subnormal.csv": "x,y\n5e-324,1\n1e-320,2\n",
    "empty.npy": b"",
    "text.npy": b"x,y\n1,2\n",
    "zip.npy": b"PK\x03\x04 and more",
    "cut.npy": b"\x93NUMPY\x01\x00",
    "giant.npy": npy("(1000000000000, 2)"),
    "evil.npy": npy("open('canary', 'w')"),
}


class Hostile:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("canary", "w")


ARRAYS = {
    "integers.npy": np.array([[1, 2], [2**53 + 2, 4]]),
    "odd.npy": np.array([[1, 2**53 + 1]]),  # as a float64 it is 2⁵³
    "unsigned.npy": np.array([[2**64 - 1, 1]], dtype=np.uint64),
    "transposed.npy": np.ones((2, 5)),
    "flat.npy": np.ones(4),
    "nothing.npy": np.ones((0, 2)),
    "nan.npy": np.array([[1.0, 2.0], [np.nan, 4.0]]),
    "booleans.npy": np.ones((3, 2), dtype=bool),
    "complex.npy": np.ones((3, 2), dtype=complex),
    "text2.npy": np.array([["1", "2"]]),
    "records.npy": np.zeros(3, dtype=[("x", "f8"), ("y", "f8")]),
    "objects.npy": np.array([[1, 2]], dtype=object),
    "hostile.npy": np.array([[Hostile(), 1]], dtype=object),
}
LINKS = {"loop.csv": "loop.csv", "loop.py": "loop.py", "dangling.npy": "gone"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (made / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, array in ARRAYS.items():
        np.save(made / name, array)
    with (made / "archive.npy").open("wb") as file:
        np.savez(file, np.ones((2, 2)))
    for name, target in LINKS.items():
        (made / name).symlink_to(target)
    (made / "folder").mkdir()
    return made


def files_in(folder: Path) -> list[Path]:
    """What lies there, but for the bytecode that Python keeps of the models' files."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize("flags", REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    monkeypatch.chdir(folder)
    shell, before = Shell(train.main, folder, capsys), files_in(folder)
    assert shell(*flags.split()) == 2
    assert shell.out == ""
    message = f"train.py: {REFUSED[flags].removeprefix('    ')}"
    if message.endswith("…"):
        assert shell.err.startswith(message.removesuffix("…"))
        assert shell.err.count("\n") == 1
    else:
        assert shell.err == f"{message}\n"
    assert files_in(folder) == before


FLAGS = (
    "--model --data --update --device --dtype --lr --momentum --dampening --weight-decay "
    "--nesterov --maximize --batch-size --shuffle --seed --standardize --bias --initial --predict "
    "--show-steps --record-every --compile --checkpoint-every --resume --name --log-dir --rubbish "
    "--chunk-size"
).split()
WORDS = st.sampled_from(
    "linear quadratic lesson parabola cars manual autograd affine half cpu cuda auto float32 0 1 2 "
    "-1 0.5 1e308 1e-320 nan inf full w=1 b=2 w2=-1e300 =1 w= models.py:W models.py:NaN word.csv "
    "giant.npy . 5steps".split()
) | st.text(max_size=5)


@given(words=st.lists(st.sampled_from(FLAGS) | WORDS, max_size=8))
def test_any_command_line_runs_or_is_refused_in_one_line(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    """Two epochs, so that what runs ends, into a directory that no other words name."""
    runs = tmp_path_factory.mktemp("any")
    out, err = io.StringIO(), io.StringIO()
    last = ["--epochs", "2", "--no-figures", "--log-dir", str(runs), "--name", "any"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        for module in (experiment, resolve):
            patch.setattr(module, "compiled", lambda gradient, x: gradient)
        try:
            status = train.main([*words, *last])
        except SystemExit as end:
            status = int(str(end.code))
    assert status in (0, 1, 2)
    if status == 2:
        assert (out.getvalue(), err.getvalue().count("\n")) == ("", 1)
        assert not any(runs.iterdir())
    elif "-h" not in words and "--help" not in words:
        assert out.getvalue()
        assert json.loads(next(runs.rglob("result.json")).read_text(encoding="utf-8"))["steps"] > 0
