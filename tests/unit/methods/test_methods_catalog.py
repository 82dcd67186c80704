import pytest

from lissom.errors import RecipeError
from lissom.methods.catalog import METHODS, SETTINGS, method_called
from lissom.methods.hmc import VARIANTS, Hmc


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_names_too(name):
    method = method_called(name)
    assert isinstance(method, Hmc)
    assert method.settings.variant == name


def test_every_method_has_settings():
    assert METHODS.keys() == SETTINGS.keys()
    assert all(METHODS[name](SETTINGS[name]()).name == name for name in METHODS)


def test_unknown_names_are_refused():
    with pytest.raises(
        RecipeError,
        match="method: 'hcm' is not known; choose one of ahc, ahc_sum, ajc, edp, hmc, int8, nahc",
    ):
        method_called("hcm")
