"""Fine-tuning is transformers' ``Wav2Vec2ForCTC``: logits, loss and gradients, padding included."""

import jax
import numpy as np
import pytest

from tests.interop.test_huggingface import tool
from xlsr_jax.interop import huggingface
from xlsr_jax.objectives.finetune import FinetuneObjective, ObjectiveConfig

CLASSES = 9


def _theirs(flavour):
    torch = pytest.importorskip("torch", reason="pip install -e '.[reference]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[reference]'")
    torch.manual_seed(0)
    values = huggingface.to_config_json(tool.tiny_config(flavour))
    values |= {"vocab_size": CLASSES, "pad_token_id": 0, "ctc_loss_reduction": "sum"}
    values |= {"ctc_zero_infinity": True, "mask_time_prob": 0.0, "layerdrop": 0.0}
    dropouts = [name for name in values if name.endswith("dropout")]
    values |= dict.fromkeys([*dropouts, "final_dropout"], 0.0)
    config = transformers.Wav2Vec2Config(**values)
    config._attn_implementation = "eager"
    model = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():  # as made, all biases are 0 and all scales 1
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return torch, model


@pytest.mark.parametrize("flavour", sorted(tool.FLAVOURS))
def test_ctc_is_theirs(flavour):
    torch, model = _theirs(flavour)
    config = tool.tiny_config(flavour)
    random = np.random.default_rng(3)
    samples = np.array([8_000, 5_210, 6_400], np.int32)
    waveform = random.normal(0, 0.5, (3, 8_000)).astype(np.float32)
    waveform *= np.arange(8_000) < samples[:, None]
    labels = random.integers(1, CLASSES, (3, 6)).astype(np.int32)
    counts = np.array([6, 0, 4], np.int32)
    labels[0, 1] = labels[0, 0]
    padded = np.where(np.arange(6) < counts[:, None], labels, -100)
    out = model(
        torch.tensor(waveform),
        attention_mask=torch.tensor(np.arange(8_000) < samples[:, None]).long(),
        labels=torch.tensor(padded).long(),
    )
    out.loss.backward()

    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    # A state dict for masked training has a mask embedding; without masks theirs has none to read.
    state.setdefault("wav2vec2.masked_spec_embed", np.zeros(config.dim, np.float32))
    params = huggingface.from_state_dict(state, config, CLASSES)
    objective = FinetuneObjective(config, ObjectiveConfig(frozen="nothing"), CLASSES)
    batch = {
        "waveform": waveform, "samples": samples, "labels": labels, "label_count": counts,
        "row": np.arange(3, dtype=np.int32), "language": np.zeros(3, np.int32),
        "weight": np.ones(3, np.float32),
    }  # fmt: skip

    def total(params):
        sums = objective.loss(params, batch, jax.random.key(0), 0, train=False)
        return sums["loss"][0], sums

    gradients, sums = jax.jit(jax.grad(total, has_aux=True))(params)
    logits, frames = jax.jit(objective.logits)(params, batch)
    theirs = out.logits.detach().numpy()
    for row, count in enumerate(np.asarray(frames)):
        scale = np.abs(theirs[row, :count]).max()
        np.testing.assert_allclose(logits[row, :count], theirs[row, :count], atol=1e-4 * scale)
    np.testing.assert_allclose(sums["loss"][0], float(out.loss), rtol=1e-4)
    assert sums["loss"][1] == 3

    ours = huggingface.to_state_dict(gradients, config, classes=CLASSES)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        expected = parameter.grad.numpy()
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(
            ours[name], expected, rtol=1e-3, atol=1e-4 * scale, err_msg=name
        )


@pytest.mark.parametrize("flavour", sorted(tool.FLAVOURS))
def test_a_row_does_not_see_the_others(flavour):
    """Batched and padded output is one-by-one output, group-norm statistics included."""
    import dataclasses

    config = dataclasses.replace(tool.tiny_config(flavour), statistics_include_padding=False)
    objective = FinetuneObjective(config, ObjectiveConfig(), CLASSES)
    params = objective.init(jax.random.key(0))
    drawn = jax.random.normal(jax.random.key(1), params["output"]["kernel"].shape)
    params["output"] = params["output"] | {"kernel": drawn}
    random = np.random.default_rng(0)
    lengths = (8_000, 3_333, 5_000)
    rows = [random.normal(0.1, 0.5, n).astype(np.float32) for n in lengths]
    together = np.zeros((3, 8_000), np.float32)
    for row, waveform in zip(together, rows, strict=True):
        row[: len(waveform)] = waveform
    outputs = jax.jit(objective.logits)
    batched, frames = outputs(params, {"waveform": together, "samples": np.array(lengths)})
    for row, waveform in enumerate(rows):
        batch = {"waveform": waveform[None], "samples": np.array([len(waveform)])}
        alone, _ = objective.logits(params, batch)
        np.testing.assert_allclose(batched[row, : frames[row]], alone[0], atol=2e-5)
        assert frames[row] == alone.shape[1]
