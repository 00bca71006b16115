"""Names for users' own parts."""

import pytest

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import Registry, accepted, did_you_mean


def test_a_name_finds_its_factory_and_is_taken_once():
    shapes: Registry = Registry("shape")

    @shapes.register("round")
    def circle():
        return "o"

    assert shapes["round"] is circle
    assert "round" in shapes
    assert "square" not in shapes
    assert list(shapes) == ["round"]
    assert shapes.register("round")(circle) is circle  # the same again is no conflict
    with pytest.raises(ValueError, match="a shape named 'round' is registered already"):
        shapes.register("round")(lambda: "O")
    assert shapes["round"] is circle


@pytest.mark.parametrize("name", ["rund", "", None, 3])
def test_an_unknown_name_lists_the_known_ones(name):
    shapes: Registry = Registry("shape")
    shapes.register("round")(lambda: "o")
    with pytest.raises(InputError, match=r"unknown shape .*known are: round"):
        shapes[name]


def test_a_hint_is_given_only_where_a_name_is_near():
    assert did_you_mean("lsmt", ["lstm", "other"]) == " (did you mean 'lstm'?)"
    assert did_you_mean("xyz", ["lstm"]) == ""
    assert did_you_mean("x", []) == ""


def test_a_factory_is_given_the_options_that_it_takes():
    options = {"hidden_dim": 3, "init_std": 0.1}

    class Takes:
        def __init__(self, num_actions, *, hidden_dim=1): ...

    assert accepted(Takes, options) == {"hidden_dim": 3}
    assert accepted(lambda num_actions: None, options) == {}
    assert accepted(lambda num_actions, **rest: None, options) == options
