"""A hundred random shapes go in, and come out bit by bit; some are computed with too."""

import numpy as np
import pytest

from tests.interop import sources
from xlsr_jax.interop import huggingface, importing

ARCHITECTURES = (
    "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC", "Wav2Vec2Model", "UniSpeechForPreTraining",
    "UniSpeechForCTC",
)  # fmt: skip
SEEDS, COMPUTED = 100, 12


def drawn(seed: int) -> tuple[str, dict]:
    """A class and a config.json."""
    random = np.random.default_rng(seed)
    pick = lambda *choices: choices[random.integers(len(choices))]  # noqa: E731
    heads, groups, codebooks = pick(1, 2, 3), pick(1, 2, 4), pick(1, 2, 3)
    convolutions = pick(1, 2, 4)
    norm = pick("group", "layer")
    values = {
        "num_hidden_layers": pick(1, 2, 3), "num_attention_heads": heads,
        "hidden_size": 12 * pick(1, 2), "intermediate_size": pick(7, 20),
        "conv_dim": [pick(4, 6, 9, 12) for _ in range(convolutions)],
        "conv_kernel": [pick(2, 3, 10) for _ in range(convolutions)],
        "conv_stride": [pick(1, 2, 3) for _ in range(convolutions)],
        "num_feat_extract_layers": convolutions, "conv_bias": pick(True, False),
        "feat_extract_norm": norm, "do_stable_layer_norm": pick(True, False),
        "num_conv_pos_embeddings": pick(3, 4, 9), "num_conv_pos_embedding_groups": groups,
        "num_codevector_groups": codebooks, "num_codevectors_per_group": pick(2, 5),
        "codevector_dim": codebooks * pick(3, 4), "proj_codevector_dim": pick(5, 8),
        "vocab_size": pick(2, 5), "num_ctc_classes": pick(2, 6), "mask_time_prob": pick(0.0, 0.3),
        "hidden_act": "gelu", "num_negatives": pick(3, 10), "layerdrop": pick(0.0, 0.1),
    }  # fmt: skip
    return pick(*ARCHITECTURES), values


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_goes_in_comes_out(tmp_path, seed):
    numpy = pytest.importorskip("safetensors.numpy")
    architecture, values = drawn(seed)
    model = sources.torch_model(architecture, values, seed)
    state = sources.state_of(model)
    numpy.save_file(state, tmp_path / "model.safetensors")
    model.config.architectures = [architecture]
    model.config.save_pretrained(tmp_path)
    run = importing.read(tmp_path)
    source, report = run.source, run.report
    assert source.model.heads == values["num_attention_heads"]
    assert report.taken.keys() == state.keys() and not report.left_out
    fresh = report.initialised.keys() - {"mask_embedding"}
    params = {name: value for name, value in run.params.items() if name not in fresh}
    back = huggingface.to_state_dict(
        params, source.model, classes=source.classes, architecture=architecture
    )
    found = {source.names.get(name, name): value for name, value in back.items()}
    strange = {name.split(".")[-1] for name in found.keys() - state.keys()}
    assert strange == ({"masked_spec_embed"} if "mask_embedding" in report.initialised else set())
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    if seed < COMPUTED:
        sources.assert_close(sources.ours(run.params, run.about), sources.theirs(model))
