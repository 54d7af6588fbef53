import importlib.util

import numpy as np
import pytest

from xlsr_jax.data import mixture
from xlsr_jax.data.records import CorpusError


def test_shares_are_tempered_hours():
    np.testing.assert_allclose(mixture.language_shares([1, 4, 9], 1), np.array([1, 4, 9]) / 14)
    np.testing.assert_allclose(mixture.language_shares([1, 4, 9], 0.5), np.array([1, 2, 3]) / 6)
    np.testing.assert_allclose(mixture.language_shares([1, 4, 9], 0), [1 / 3] * 3)


def test_shares_do_not_depend_on_the_unit_of_hours():
    hours = np.array([168, 353, 90, 17, 29, 55, 3, 11, 17, 50, 557])  # XLSR-10 and English
    expected = hours**0.3 / np.sum(hours**0.3)
    np.testing.assert_allclose(mixture.language_shares(hours * 3600.0, 0.3), expected)


def test_cells_keep_the_shares_of_languages_and_the_corpus_inside_one():
    samples = np.array([[10, 0, 6], [30, 5, 6]])
    cells = mixture.cell_shares(np.array([0.5, 0.2, 0.3]), samples)
    np.testing.assert_allclose(cells, [[0.125, 0, 0.15], [0.375, 0.2, 0.15]])


def test_languages_are_sorted_and_checked():
    hours = {"tr": 2.0, "es": 1.0, "xx": 0.0}
    assert mixture.choose_languages(hours) == ("es", "tr")
    assert mixture.choose_languages(hours, ("tr", "tr")) == ("tr",)
    with pytest.raises(CorpusError, match="'xx'.*the corpus has es, tr"):
        mixture.choose_languages(hours, ("es", "xx"))
    with pytest.raises(CorpusError, match="did you mean es"):
        mixture.choose_languages(hours, ("ess",))
    with pytest.raises(CorpusError, match="no audio at all"):
        mixture.choose_languages({})
    with pytest.raises(CorpusError, match="needs audio"):
        mixture.language_shares([1.0, 0.0], 0.5)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_the_stream_achieves_the_shares_of_124_locales(alpha, root, shared):
    spec = importlib.util.spec_from_file_location("show", root / "tools/show_mixture.py")
    show = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(show)
    locales = show.read_locales(shared / "common_voice/cv-corpus-17.0-2024-03-15.json")
    assert len(locales) == 124
    hours = np.array([locale.hours for locale in locales])
    expected = hours**alpha / np.sum(hours**alpha)
    plan = show.plan_locales(locales, alpha, batch_seconds=1600, utterances=30_000)
    achieved = show.achieved_shares(plan, steps=240)
    # 107 hours drawn: every locale is within 3 minutes of its share of them ...
    np.testing.assert_allclose(achieved, expected, rtol=0, atol=5e-4)
    # ... which for the larger ones is a few per cent of what they get.
    large = expected > 5e-3
    np.testing.assert_allclose(achieved[large], expected[large], rtol=0.05)
