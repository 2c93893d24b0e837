"""Where this machine stands among those whose bits are known (see tests/digests.py)."""

import digests
import pytest

from torchgd.experiment.files import read_json

KNOWN = read_json(digests.FILE)


@pytest.mark.parametrize("case", digests.CASES)
def test_the_same_bits_as_elsewhere(case: str, named_device: str) -> None:
    """Where this environment is known, its own; of another one it is said where it parts."""
    digest, steps = digests.digests(case, named_device)
    here, paths = digests.environment(named_device), KNOWN[case]
    known = {where: name for name, path in paths.items() for where in path["where"]}
    if here in known:
        assert digest == known[here]
    elif digest in paths:
        pytest.skip(f"{here} is not known; the same bits as {paths[digest]['where'][0]}")
    else:
        where, first = max(
            ((path["where"][0], first_difference(path["steps"], steps)) for path in paths.values()),
            key=lambda found: found[1],
        )
        pytest.skip(f"{here} is not known; it parts from {where} at step {first}")


def first_difference(a: str, b: str) -> int:
    """The first step of which the digits differ."""
    pairs = zip(range(0, len(a), 4), range(0, len(b), 4), strict=True)
    return next((i // 4 for i, j in pairs if a[i : i + 4] != b[j : j + 4]), len(a) // 4)


def test_each_environment_gave_one_path_of_each_case() -> None:
    everywhere = {where for path in KNOWN["lesson, float64"].values() for where in path["where"]}
    for case in digests.CASES:
        found = [where for path in KNOWN[case].values() for where in path["where"]]
        assert sorted(found) == sorted(everywhere)


def test_the_first_step_that_differs() -> None:
    assert first_difference("aaaabbbbcccc", "aaaabbbbcccc") == 3
    assert first_difference("aaaabbbbcccc", "aaaabbbdcccc") == 1
