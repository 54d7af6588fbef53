"""UniSpeech is transformers' ``UniSpeechForPreTraining``; its loss is held against the paper.

transformers computes hidden states, quantized and projected vectors, and no loss; that is written
here in NumPy from equations 1 to 6 of the paper.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.interop.test_huggingface import tool
from xlsr_jax.interop import huggingface
from xlsr_jax.models import unispeech
from xlsr_jax.models.unispeech import UniSpeech
from xlsr_jax.objectives.unispeech import ObjectiveConfig, UniSpeechObjective
from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig as PlainConfig
from xlsr_jax.objectives.wav2vec2 import Wav2Vec2Objective

CLASSES, ROWS, SAMPLES = 9, 3, 8_000
STILL = dict.fromkeys(
    ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "dropout_features",
     "final_dropout", "layerdrop"), 0.0,
)  # fmt: skip


def config_of(flavour, **changes):
    fields = dataclasses.asdict(tool.tiny_config(flavour)) | STILL | changes
    return unispeech.ModelConfig(**fields)


def theirs(flavour):
    torch = pytest.importorskip("torch", reason="pip install -e '.[reference]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[reference]'")
    torch.manual_seed(0)
    values = huggingface.to_config_json(tool.tiny_config(flavour))
    values |= {"num_ctc_classes": CLASSES, "replace_prob": 0.0, "layerdrop": 0.0}
    values.pop("architectures"), values.pop("model_type")
    config = transformers.UniSpeechConfig(**values)
    config._attn_implementation = "eager"
    model = transformers.UniSpeechForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return torch, model


def batch_of(seed=3, labels=True):
    random = np.random.default_rng(seed)
    batch = {
        "waveform": random.normal(0, 0.5, (ROWS, SAMPLES)).astype(np.float32),
        "samples": np.array([SAMPLES, 5_210, 6_400], np.int32),
        "row": np.arange(ROWS, dtype=np.int32), "language": np.zeros(ROWS, np.int32),
        "weight": np.ones(ROWS, np.float32),
    }  # fmt: skip
    batch["waveform"] *= np.arange(SAMPLES) < batch["samples"][:, None]
    if labels:
        batch["labels"] = random.integers(1, CLASSES, (ROWS, 6)).astype(np.int32)
        batch["label_count"] = np.array([6, 0, 4], np.int32)
    return batch


def params_of(objective):
    """Random everywhere: the classifier begins at zero, which tells nothing."""
    params = objective.init(jax.random.key(0))
    draw = lambda leaf: 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)  # noqa: E731
    return params | {"ctc_output": jax.tree.map(draw, params["ctc_output"])}


def close(ours, expected, rtol=1e-4):
    expected = np.asarray(expected)
    np.testing.assert_allclose(ours, expected, atol=rtol * np.abs(expected).max(), rtol=rtol)


@pytest.mark.parametrize("flavour", sorted(tool.FLAVOURS))
def test_hidden_states_vectors_and_logits_are_theirs(flavour):
    torch, model = theirs(flavour)
    config = config_of(flavour)
    batch = batch_of()
    frames = int(config.frames(SAMPLES))
    mask = np.random.default_rng(1).random((ROWS, frames)) < 0.4
    mask &= np.arange(frames) < config.frames(batch["samples"])[:, None]
    with torch.no_grad():
        out = model(
            torch.tensor(batch["waveform"]),
            attention_mask=torch.tensor(np.arange(SAMPLES) < batch["samples"][:, None]).long(),
            output_hidden_states=True,
        )
        masked_out = model.unispeech(
            torch.tensor(batch["waveform"]),
            attention_mask=torch.tensor(np.arange(SAMPLES) < batch["samples"][:, None]).long(),
            mask_time_indices=torch.tensor(mask),
        )
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    params = huggingface.from_state_dict(state, config, CLASSES)
    back = huggingface.to_state_dict(params, config, classes=CLASSES)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], state[name]) for name in state)

    network = UniSpeech(config, classes=CLASSES)
    everything = jnp.broadcast_to(jnp.arange(frames), (ROWS, frames))
    apply = jax.jit(lambda p, mask: network.apply(
        {"params": p}, batch["waveform"], batch["samples"], mask, everything
    ))  # fmt: skip
    ours = apply(params, jnp.zeros((ROWS, frames), bool))
    under_mask = apply(params, mask)
    replace = np.random.default_rng(2).random((ROWS, frames)) < 0.5
    logits = network.apply(
        {"params": params}, batch["waveform"], batch["samples"], replace,
        method=UniSpeech.transcribe,
    )  # fmt: skip
    with torch.no_grad():
        picked = torch.where(
            torch.tensor(replace)[..., None], out.projected_quantized_states, out.projected_states
        )
        their_logits = model.ctc_proj(picked).numpy()
    for row, count in enumerate(config.frames(batch["samples"])):
        close(ours.last[row, :count], out.projected_states[row, :count])
        close(ours.contexts[row, :count], out.projected_states[row, :count])
        close(ours.vectors[row, :count], out.projected_quantized_states[row, :count])
        close(ours.targets[row, :count], out.projected_quantized_states[row, :count])
        close(under_mask.last[row, :count], masked_out.last_hidden_state[row, :count])
        close(logits[row, :count], their_logits[row, :count])
        for layer in range(config.layers):
            close(ours.hidden[layer, row, :count], out.hidden_states[layer][row, :count])


def drawn(config, objective, seed=0):
    """A batch with everything that is otherwise drawn."""
    random = np.random.default_rng(seed)
    batch = batch_of()
    frames = int(config.frames(SAMPLES))
    valid = config.frames(batch["samples"])
    spots = [np.sort(random.permutation(count)[:6]) for count in valid]
    batch["masked"] = np.stack(spots).astype(np.int32)
    batch["masked_valid"] = np.ones((ROWS, 6), bool)
    batch["masked_valid"][1, 4:] = False
    bound = 4 if objective.distractors_from == "masked" else int(valid.min())
    batch["distractors"] = random.integers(0, bound, (ROWS, 6, objective.distractors))
    shape = (config.groups, config.codewords)
    batch["gumbel"] = random.gumbel(size=(ROWS, 6, *shape)).astype(np.float32)
    batch["everywhere"] = random.gumbel(size=(ROWS, frames, *shape)).astype(np.float32)
    batch["replace"] = random.random((ROWS, frames)) < 0.5
    return batch


def reference(params, config, objective, batch):
    """The loss of the paper, equation 6, in float64, from what the network gives."""
    network = UniSpeech(config, classes=CLASSES)
    hit = batch["masked"][..., None] == np.arange(config.frames(SAMPLES))
    mask = np.any(hit & batch["masked_valid"][..., None], axis=1)
    out = network.apply(
        {"params": params}, batch["waveform"], batch["samples"], mask, batch["masked"],
        batch["gumbel"], objective.gumbel_start, None, batch["everywhere"], batch["replace"],
    )  # fmt: skip
    out = jax.tree.map(lambda x: np.asarray(x, np.float64), out)
    pool = out.targets, out.quantized.codes
    if objective.distractors_from == "everywhere":
        pool = out.vectors, out.everywhere.codes
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    contrastive, masked = 0.0, 0
    ctc = np.zeros(ROWS)
    probabilities = []
    counts = batch["masked_valid"].sum(1)
    for b in range(ROWS):
        for m in range(6):
            if not batch["masked_valid"][b, m]:
                continue
            masked += 1
            probabilities.append(out.quantized.probabilities[b, m])
            choices = [unit(out.targets[b, m])]
            for n in batch["distractors"][b, m]:
                if (pool[1][b, n] != out.quantized.codes[b, m]).any():
                    choices.append(unit(pool[0][b, n]))
            similar = np.stack(choices) @ unit(out.contexts[b, m]) / objective.temperature
            contrastive -= similar[0] - np.log(np.exp(similar).sum())
    mean = np.mean(probabilities, axis=0)
    perplexity = np.exp(-(mean * np.log(mean + 1e-7)).sum(-1)).sum()
    total = config.groups * config.codewords
    diversity = masked * (total - perplexity) / total
    frames = config.frames(batch["samples"])
    for b in range(ROWS):
        padded = lambda n, count: (np.arange(n) >= count).astype(np.float32)[None]  # noqa: E731
        ctc[b] = optax.ctc_loss(
            out.logits[b : b + 1], padded(out.logits.shape[1], frames[b]),
            batch["labels"][b : b + 1], padded(6, batch["label_count"][b]),
        )[0]  # fmt: skip
    if objective.ctc_over == "label":
        ctc = ctc / np.maximum(batch["label_count"], 1) * counts
    alpha = objective.alpha
    joint = alpha * ctc.sum() + (1 - alpha) * (contrastive + 0.1 * diversity)
    return joint / masked, (contrastive + 0.1 * diversity) / masked


@pytest.mark.parametrize(("pool", "over"), [("masked", "label"), ("everywhere", "utterance")])
def test_the_loss_is_the_papers(pool, over):
    config = config_of("large")
    settings = ObjectiveConfig(alpha=0.3, distractors=5, distractors_from=pool, ctc_over=over)
    objective = UniSpeechObjective(config, settings, CLASSES)
    params = params_of(objective)
    batch = drawn(config, settings)
    loss = lambda p, batch: objective.loss(p, batch, jax.random.key(1), 0)["loss"]  # noqa: E731
    numerator, frames = jax.jit(loss)(params, batch)
    joint, alone = reference(params, config, settings, batch)
    assert frames == batch["masked_valid"].sum()
    np.testing.assert_allclose(numerator / frames, joint, rtol=2e-5)
    unlabelled = {k: v for k, v in batch.items() if k not in ("labels", "label_count", "replace")}
    numerator, frames = jax.jit(loss)(params, unlabelled)
    np.testing.assert_allclose(numerator / frames, alone, rtol=2e-5)


def test_gradients_are_those_of_finite_differences():
    """Of what no straight-through estimate stands before: all but the code choice."""
    config = config_of("large")
    settings = ObjectiveConfig(distractors=5, distractors_from="everywhere")
    objective = UniSpeechObjective(config, settings, CLASSES)
    params = params_of(objective)
    batch = drawn(config, settings)

    @jax.jit
    def loss(part):
        numerator, frames = objective.loss(params | part, batch, jax.random.key(1), 0)["loss"]
        return numerator / frames

    parts = {
        name: params[name] for name in
        ("target_projection", "quantized_projection", "ctc_output", "feature_projection")
    }  # fmt: skip
    gradient = jax.grad(loss)(parts)
    keys = iter(jax.random.split(jax.random.key(2), 16))
    for name, tree in parts.items():
        way = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), tree)
        step = 2e-3 / optax.tree.norm(way)
        ahead, behind = (
            loss(parts | {name: jax.tree.map(lambda p, w: p + s * step * w, tree, way)})  # noqa: B023
            for s in (1, -1)
        )
        along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient[name], way)))
        np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=0.03, err_msg=name)


def test_with_alpha_0_and_r_0_it_is_wav2vec2_and_with_alpha_1_ctc():
    plain = tool.tiny_config("large")
    config = config_of("large", targets="final_dim", final_dim=plain.dim)
    plain = dataclasses.replace(plain, **{k: v for k, v in STILL.items() if k != "final_dropout"},
                                final_dim=plain.dim)  # fmt: skip
    settings = ObjectiveConfig(alpha=0.0, replace_prob=0.0, distractors=5)
    ours = UniSpeechObjective(config, settings, CLASSES)
    same = {f.name: getattr(settings, f.name) for f in dataclasses.fields(PlainConfig)}
    reference = Wav2Vec2Objective(plain, PlainConfig(**same))
    params = params_of(ours)
    batch, key = batch_of(), jax.random.key(1)
    wav2vec2 = {name: value for name, value in params.items() if name != "ctc_output"}
    expected = jax.jit(reference.loss)(wav2vec2, batch, key, 0)["loss"]
    found = jax.jit(ours.loss)(params, batch, key, 0)["loss"]
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))

    one = dataclasses.replace(settings, alpha=1.0)
    sums = jax.jit(UniSpeechObjective(config, one, CLASSES).loss)(params, batch, key, 0)
    labels = batch["label_count"].sum()
    assert sums["loss_per_label"][1] == labels
    np.testing.assert_allclose(sums["loss"][0], sums["loss_per_label"][0], rtol=1e-6)


def test_held_out_labels_are_read_from_unmasked_audio_without_replacement():
    config = config_of("base")
    objective = UniSpeechObjective(config, ObjectiveConfig(distractors=5), CLASSES)
    params = params_of(objective)
    batch = batch_of()
    loss = jax.jit(lambda p, o: o.loss(p, batch, jax.random.key(1), 0, train=False),
                   static_argnums=1)  # fmt: skip
    found = loss(params, objective)["loss_per_label"][0]
    shaken = params | {"mask_embedding": params["mask_embedding"] + 1}
    np.testing.assert_array_equal(found, loss(shaken, objective)["loss_per_label"][0])
    targets = jax.tree.map(lambda x: x + 1, params["target_projection"])
    shaken = params | {"target_projection": targets}
    np.testing.assert_array_equal(found, loss(shaken, objective)["loss_per_label"][0])
    released = UniSpeechObjective(
        config, ObjectiveConfig(distractors=5, replace_in_evaluation=True), CLASSES
    )
    assert abs(loss(params, released)["loss_per_label"][0] - found) > 1e-3


def test_rows_draw_for_themselves():
    """Cutting a batch changes neither replacement nor noise nor distractors."""
    config = config_of("large")
    settings = ObjectiveConfig(distractors=5, distractors_from="everywhere", diversity_weight=0.0)
    objective = UniSpeechObjective(config, settings, CLASSES)
    params = params_of(objective)
    batch = batch_of()
    loss = jax.jit(lambda p, b: objective.loss(p, b, jax.random.key(1), 0))
    whole = loss(params, batch)
    parts = [loss(params, {k: v[r : r + 1] for k, v in batch.items()}) for r in range(ROWS)]
    for name in ("loss", "loss_per_label", "contrastive_loss", "error_rate"):
        for side in (0, 1):
            total = sum(part[name][side] for part in parts)
            np.testing.assert_allclose(total, whole[name][side], rtol=1e-5, err_msg=name)
