from typing import Any

import pytest
import torch
from helpers import MODELS

from torchgd import Linear, Model, Quadratic
from torchgd.gradients import partial_derivatives


def test_hand_numbers() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    line = Linear(w=2.0, dtype=torch.float64)
    assert line(x).tolist() == [-4.0, 0.0, 6.0]
    assert partial_derivatives(line, x, x)["w"].tolist() == [-2.0, 0.0, 3.0]
    parabola = Quadratic(w2=3.0, w1=2.0, b=1.0, dtype=torch.float64)
    assert parabola(x).tolist() == [9.0, 1.0, 34.0]
    assert {name: p.tolist() for name, p in partial_derivatives(parabola, x, x).items()} == {
        "w2": [4.0, 0.0, 9.0],
        "w1": [-2.0, 0.0, 3.0],
        "b": [1.0, 1.0, 1.0],
    }


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,)])
def test_broadcasts_over_any_shape(make: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = make(device="cpu", dtype=dtype)
    x = torch.ones(shape, dtype=dtype)
    for values in (model(x), *partial_derivatives(model, x, x).values()):
        assert (values.shape, values.dtype) == (shape, dtype)
    assert all(w.shape == () and w.dtype == dtype for w in model.parameters())


def test_starting_values_and_names() -> None:
    def values(model: Model) -> dict[str, float]:
        return {name: w.item() for name, w in model.named_parameters()}

    assert values(Linear()) == {"w": 1.0}
    assert values(Linear(w=3, bias=True)) == {"w": 3.0, "b": 0.0}
    assert values(Quadratic()) == {"w2": 1.0, "w1": 1.0, "b": 0.0}
    assert values(Quadratic(w2=4, w1=5, b=6)) == {"w2": 4.0, "w1": 5.0, "b": 6.0}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_original_units_give_the_same_curve(make: Any) -> None:
    """Trained over z = (x − m)/s, mapped back over x: ŷ is the same to a few roundings."""
    model, mapped = make(dtype=torch.float64), make(dtype=torch.float64)
    with torch.no_grad():
        for value, w in enumerate(model.parameters(), start=2):
            w.fill_(value)
    mean = 0.0 if len(list(model.parameters())) == 1 else 7.0
    values = model.in_original_units(mean, 2.5)
    mapped.load_state_dict(
        {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    )
    x = torch.linspace(-5, 20, 11, dtype=torch.float64)
    torch.testing.assert_close(mapped(x), model((x - mean) / 2.5), rtol=0, atol=1e-13)


def test_a_line_without_a_bias_cannot_take_a_mean() -> None:
    with pytest.raises(ValueError, match=r"^mean 1.0: without a bias the line maps back"):
        Linear().in_original_units(1.0, 2.0)


def test_a_model_says_what_it_lacks() -> None:
    class Bare(Model):
        pass

    x = torch.ones(1)
    with pytest.raises(NotImplementedError, match=r"^Bare needs forward\(x\), which returns ŷ"):
        Bare()(x)
    with pytest.raises(NotImplementedError, match=r"^Bare needs partials\(x\)"):
        Bare().partials(x)
    with pytest.raises(ValueError, match=r"^Bare does not define in_original_units"):
        Bare().in_original_units(0.0, 1.0)
