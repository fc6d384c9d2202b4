"""Names to objects: resolving, binding, hints for misspelt options."""

import pytest

from elucid.dnnlib import config
from elucid.dnnlib.errors import UserError


class Thing:
    def __init__(self, part, weight: float = 2.0, *, depth: int = 1):
        self.part, self.weight, self.depth = part, weight, depth


def test_construct_binds_defaults_and_keeps_the_config():
    thing = config.construct(Thing, {"depth": 3}, part="x")
    assert (thing.part, thing.weight, thing.depth) == ("x", 2.0, 3)
    assert thing.config == {"class": f"{__name__}:Thing", "options": {"weight": 2.0, "depth": 3}}


class Fails:
    def __init__(self, width: int = 0, how=(1, {"a": None})):
        self.inverse = 1 / width


class Odd:
    def __init__(self, thing=object):
        pass


def test_a_constructor_that_fails_says_where():
    with pytest.raises(UserError, match=r"loss mine cannot be made .*ZeroDivisionError: .* \(.*test_config.py:\d+\)"):
        config.construct(Fails, {}, "loss mine")


def test_options_are_data():
    with pytest.raises(UserError, match="loss mine: the default of thing is a type; options are numbers"):
        config.construct(Odd, {}, "loss mine")


def test_misspelt_option_fails_by_name():
    with pytest.raises(UserError, match=r"no option 'wieght' \(did you mean 'weight'\?\).*weight, depth"):
        config.construct(Thing, {"wieght": 1}, part="x")


def test_missing_option_fails_by_name():
    with pytest.raises(UserError, match="needs the option 'part'"):
        config.construct(Thing, {})


class Typed:
    def __init__(
        self,
        depth: int = 1,
        weight: "float | None" = 2.0,
        on: bool = False,
        mode: str = "a",
        sides: list[int] = (1, 2),
        size: int | list[int] = 8,
        other=None,
    ):
        pass


@pytest.mark.parametrize(
    "good",
    [{"depth": 3}, {"weight": 1}, {"weight": None}, {"weight": float("inf")}, {"on": True}, {"on": 1}, {"mode": "b"},
     {"sides": [4]}, {"sides": (4, 5)}, {"size": 4}, {"size": [4, 5]}, {"other": "anything"}],
)  # fmt: skip
def test_values_of_the_annotated_type_are_taken(good):
    assert config.bind(Typed, good).items() >= good.items()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"depth": "abc"}, "Typed: depth='abc' must be an integer"),
        ({"depth": 2.5}, "depth=2.5 must be an integer"),
        ({"depth": True}, "depth=True must be an integer"),
        ({"depth": None}, "depth=None must be an integer"),
        ({"weight": "abc"}, "weight='abc' must be a number or null"),
        ({"on": "yes"}, "on='yes' must be true or false"),
        ({"on": 2}, "on=2 must be true or false"),
        ({"mode": 3}, "mode=3 must be a string"),
        ({"sides": 4}, "sides=4 must be a list of integers"),
        ({"sides": [4, "x"]}, "must be a list of integers"),
        ({"size": 0.5}, "size=0.5 must be an integer or a list of integers"),
    ],
)
def test_a_value_of_another_type_fails_by_name(bad, message):
    with pytest.raises(UserError, match=message):
        config.bind(Typed, bad)


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"unknown loss 'emd' \(did you mean 'edm'\?\); known: edm, vp"):
        config.lookup({"edm": "a:B", "vp": "a:C"}, "emd", "loss")


@pytest.mark.parametrize("name", ["no_such_module_anywhere:X", "json:Nothing", "json", "missing_file.py:X"])
def test_unresolvable_names_are_user_errors(name):
    with pytest.raises(UserError, match="json|no_such_module|missing_file"):
        config.resolve(name)


def test_a_file_is_a_module(tmp_path):
    path = tmp_path / "my_plugin.py"
    path.write_text("class Mine:\n    pass\n")
    assert config.resolve(f"{path}:Mine").__name__ == "Mine"
    path2 = tmp_path / "broken.py"
    path2.write_text("import no_such_thing_at_all\n")
    with pytest.raises(UserError, match="broken.py: cannot import it: ModuleNotFoundError"):
        config.resolve(f"{path2}:Mine")
    with pytest.raises(UserError, match=r"no_such_module_anywhere'; is it on PYTHONPATH\?$"):
        config.resolve("no_such_module_anywhere:Mine")


def test_set_by_path():
    options = {"network": {"num_blocks": 4}, "loss": {}}
    config.set_by_path(options, "network.num_blocks=2")
    config.set_by_path(options, "network.attn_resolutions=[8, 16]")
    config.set_by_path(options, "loss.mode=fast")
    assert options == {"network": {"num_blocks": 2, "attn_resolutions": [8, 16]}, "loss": {"mode": "fast"}}
    with pytest.raises(UserError, match=r"no part 'netwrok' \(did you mean 'network'\?\)"):
        config.set_by_path(options, "netwrok.num_blocks=2")
    with pytest.raises(UserError, match="part.option=value"):
        config.set_by_path(options, "network.num_blocks")
