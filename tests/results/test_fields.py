import dataclasses
import inspect
import pydoc

import pytest
import sgdstab_fast as sf

DATACLASSES = [name for name in sf.__all__ if dataclasses.is_dataclass(getattr(sf, name))]


@pytest.mark.parametrize("name", DATACLASSES)
def test_help_says_what_every_field_means(name):
    kind = getattr(sf, name)
    shown = pydoc.plain(pydoc.render_doc(kind))
    said = inspect.getdoc(kind).split("Attributes\n----------\n")[1]
    for field in dataclasses.fields(kind):
        _, _, rest = said.partition(f"{field.name} : ")
        meaning = rest.splitlines()[1].strip() if rest else ""
        assert len(meaning) > 3, f"{name}.{field.name} has no meaning"
        assert meaning in shown


def test_help_on_a_result_is_that_on_its_class():
    shown = pydoc.plain(pydoc.render_doc(sf.mean_square_exponent(sf.LinearizedSGD([[1.0]], 0.5))))
    assert "Lambda(2); below 0, SGD converges to the minimum in mean square" in shown
    assert inspect.getdoc(sf.Edges).startswith("The learning rates up to which SGD is stable")
