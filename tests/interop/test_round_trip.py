"""From transformers into a run and out again: the same tensors, which compute the same there."""

import numpy as np
import pytest

from tests.interop import sources
from xlsr_jax import convert

ARCHITECTURES = (
    "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC", "Wav2Vec2Model", "UniSpeechForPreTraining",
    "UniSpeechForCTC",
)  # fmt: skip


@pytest.mark.parametrize("flavour", sources.FLAVOURS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_of_an_import_is_equal(tmp_path, architecture, flavour):
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[reference]'")
    model = sources.torch_model(architecture, sources.FLAVOURS[flavour])
    letters = sources.LETTERS if architecture.endswith("ForCTC") else ()
    sources.save(model, tmp_path / "in", normalize=flavour == "large", letters=letters)
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    assert convert.main(["import", str(tmp_path / "in"), f"--output={run}"]) == 0
    assert convert.main(["export", run, "--format=huggingface", f"--output={out}"]) == 0
    loaded = getattr(transformers, architecture).from_pretrained(out)
    before, after = sources.state_of(model), sources.state_of(loaded)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert loaded.config.ctc_loss_reduction == model.config.ctc_loss_reduction
    assert loaded.config.num_attention_heads == model.config.num_attention_heads
    sources.assert_close(sources.theirs(loaded.eval()), sources.theirs(model))
