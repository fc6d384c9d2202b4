"""docs/inverse.md: its operator is one, and its tables name all operators, methods and options that there are."""

import re

import torch

from elucid.dnnlib.values import signature
from elucid.training.registry.components import find
from elucid.training.registry.names import OPERATORS, POSTERIORS
from elucid.training.sampling.inverse.posterior import posterior_denoiser
from tests import scripts
from tests.oracles import GaussianDenoiser

PAGE = (scripts.ROOT / "docs/inverse.md").read_text()


def rows(header):
    """The first and last cells of a table."""
    lines = PAGE.split(header, 1)[1].split("\n\n", 1)[0].splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    return [(one[0], one[-1]) for one in cells]


def test_its_operator_works(tmp_path):
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "class " in one]
    (tmp_path / "mine_page.py").write_text(code)
    prior, affine = GaussianDenoiser(shape=(2, 4, 4)), (torch.ones(2), torch.zeros(2))
    text = f"{tmp_path}/mine_page.py:Projections,weight=0.1"
    wrapped = posterior_denoiser(prior, affine, text, torch.ones(2, 8), "gaussian:0.1")
    assert wrapped.problem.operator.weight == 0.1 and wrapped.problem.measured_shape == (2, 8)
    assert wrapped(torch.zeros(3, 2, 4, 4, dtype=torch.float64), 1.0).x0.shape == (3, 2, 4, 4)


def test_its_tables_name_what_there_is():
    operators = {re.match(r" ?`(\w+)", first)[1]: last for first, last in rows("| operator | y of")}
    assert set(operators) == set(OPERATORS)
    methods = {re.match(r" ?`(\w+)", first)[1]: last for first, last in rows("| `--posterior` |")}
    assert set(methods) == set(POSTERIORS)
    for kind, table in (("operator", operators), ("posterior", methods)):
        for name, options in table.items():
            known = set(signature(find(kind, name)).parameters) - {"denoiser", "problem", "tolerance", "iterations"}
            named = set(re.findall(r"`(\w+)(?:=[^`]*)?`", options))
            assert known <= named, (name, known - named)
    for name, options in methods.items():  # the defaults that it names
        parameters = signature(find("posterior", name)).parameters
        for option, value in re.findall(r"`(\w+)=([\w.-]+)`", options):
            assert str(parameters[option].default) == value or parameters[option].default == float(value)
