"""Where this machine stands among those whose bits are known (see tests/digests.py)."""

import os
from typing import Any

import digests
import pytest

from torchgd.experiment.files import read_json

KNOWN = read_json(digests.FILE)


# No machine with AVX-512 has run these yet.
NOT_WITH_AVX512 = ("shuffled", "parallel", "minus zero")


@pytest.mark.parametrize("case", digests.CASES)
def test_the_same_bits_as_elsewhere(case: str, named_device: str) -> None:
    """Where this environment is known, its own; of another one it is said where it parts."""
    here = digests.environment(named_device)
    if "AVX512" in here and case.startswith(NOT_WITH_AVX512):
        pytest.skip(f"{case} has run on no machine with AVX-512 yet: python tests/digests.py")
    hold_against(KNOWN[case], here, *digests.digests(case, named_device))


def hold_against(paths: dict[str, Any], here: str, digest: str, steps: str) -> None:
    """Fail if this environment gave other bits before; if it is not known, skip, or fail in CI."""
    known = {where: name for name, path in paths.items() for where in path["where"]}
    if here in known:
        assert digest == known[here]
        return
    if digest in paths:
        stands = f"the same bits as {paths[digest]['where'][0]}"
    else:
        where, first = max(
            ((path["where"][0], first_difference(path["steps"], steps)) for path in paths.values()),
            key=lambda found: found[1],
        )
        stands = f"it parts from {where} at step {first}"
    end = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    end(f"{here} is not known; {stands}; to add it: python tests/digests.py")


PATHS = {"d1": {"where": ["here"], "steps": "aaaabbbb"}}


@pytest.mark.parametrize(("ci", "end"), [("true", pytest.fail), ("", pytest.skip)])
@pytest.mark.parametrize(("digest", "stands"), [
    ("d1", "the same bits as here"), ("d3", "it parts from here at step 1"),
])  # fmt: skip
def test_what_is_not_known(
    ci: str, end: Any, digest: str, stands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    said = f"^there is not known; {stands}; to add it: python tests/digests.py$"
    with pytest.raises(end.Exception, match=said):
        hold_against(PATHS, "there", digest, "aaaacccc")


def test_what_is_known() -> None:
    hold_against(PATHS, "here", "d1", "aaaabbbb")
    with pytest.raises(AssertionError):
        hold_against(PATHS, "here", "d2", "aaaacccc")


def first_difference(a: str, b: str) -> int:
    """The first step of which the digits differ."""
    pairs = zip(range(0, len(a), 4), range(0, len(b), 4), strict=True)
    return next((i // 4 for i, j in pairs if a[i : i + 4] != b[j : j + 4]), len(a) // 4)


def test_each_environment_gave_one_path_of_each_case() -> None:
    everywhere = {where for path in KNOWN["lesson, float64"].values() for where in path["where"]}
    for case in digests.CASES:
        found = [where for path in KNOWN[case].values() for where in path["where"]]
        assert len(found) == len(set(found))
        lacking = everywhere.symmetric_difference(found)
        if case.startswith(NOT_WITH_AVX512):
            lacking = {where for where in lacking if "AVX512" not in where}
        assert not lacking


def test_the_first_step_that_differs() -> None:
    assert first_difference("aaaabbbbcccc", "aaaabbbbcccc") == 3
    assert first_difference("aaaabbbbcccc", "aaaabbbdcccc") == 1
