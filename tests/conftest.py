import pytest
import torch
from hypothesis import settings

# The same examples on every run, and no example is too slow on a busy machine.
settings.register_profile("torchgd", derandomize=True, deadline=None)
settings.load_profile("torchgd")

DTYPES = [torch.float32, torch.float64]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason=f"no CUDA device (torch {torch.__version__})")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen
