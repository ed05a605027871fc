"""The plot of thresholds."""

import sgdstab_fast as sf
from reference.known import K4


def test_every_notion_has_its_line():
    found = sf.thresholds(K4, 2, learning_rate=0.8, orders=(), rng=0)
    ax = found.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == [row.name for row in found]
    assert ax.get_xlabel().startswith("critical learning rate")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {
        "sufficient: stable below",
        "threshold",
        "necessary: unstable above",
        "95% interval, or bounds",
    }
    assert {"← not met at η = 0.8", "met at η = 0.8 →"} <= {text.get_text() for text in ax.texts}
    assert found.plot(ax) is ax
