"""What transformers' PyTorch model makes of tiny random models: the golden files of the tests.

    python tools/make_golden.py          writes tests/golden/wav2vec2_{base,large}.npz

Needs the ``reference`` extra. The tests read the files without PyTorch, and where it is there,
call ``reference`` with another seed and compare with that as well.
"""

import sys
from pathlib import Path

import numpy as np

from xlsr_jax.interop import huggingface
from xlsr_jax.models.wav2vec2 import ModelConfig

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
FLAVOURS = ("base", "large")
DISTRACTORS, GUMBEL_TEMPERATURE = 5, 1.7
SAMPLES = (5_200, 4_400)  # the second row is padded


def tiny_config(flavour: str) -> ModelConfig:
    """A tiny model of the Base or the Large flavour, without anything random in training."""
    large = flavour == "large"
    return ModelConfig(
        encoder_norm="layer" if large else "group",
        conv_bias=large,
        pre_norm=large,
        statistics_include_padding=True,
        conv_dims=(6,) * 7,
        dim=12,
        layers=2,
        heads=4,
        ffn=12,
        position_kernel=8,
        position_groups=4,
        groups=2,
        codewords=6,
        code_dim=8,
        final_dim=8,
        feature_grad_scale=1.0,
        dropout=0.0,
        attention_dropout=0.0,
        dropout_input=0.0,
        dropout_features=0.0,
        layerdrop=0.0,
    )


def reference(flavour: str, seed: int) -> dict[str, np.ndarray]:
    """Inputs, weights, and all that their model says, "eval" and with given Gumbel noise "train".

    Keys: ``input/*``; ``weight/<their key>``; ``eval/hidden/<i>``; for each mode
    ``<mode>/targets`` and ``<mode>/contexts`` [B, T, P], ``<mode>/logits`` [B, T, 1 + K] (-inf
    where a distractor is the target), ``<mode>/contrastive_loss``, ``<mode>/diversity_loss``,
    ``<mode>/loss``, ``<mode>/perplexity`` and ``<mode>/gradient/<their key>``.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    config = tiny_config(flavour)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Wav2Vec2ForPreTraining(
        Wav2Vec2Config(
            **huggingface.to_config_json(config),
            attn_implementation="eager",
            num_negatives=DISTRACTORS,
        )
    )
    with torch.no_grad():  # so that no norm is the identity and no bias zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    inputs = _inputs(config, rng)
    result = {f"input/{name}": value for name, value in inputs.items()}
    for name, value in model.state_dict().items():
        result[f"weight/{name}"] = value.numpy().copy()
    for mode in ("eval", "train"):
        model.eval()
        model.quantizer.train(mode == "train")
        for name, value in _forward(model, inputs).items():
            result[f"{mode}/{name}"] = value
    return result


def _inputs(config: ModelConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows, length = len(SAMPLES), config.frames(max(SAMPLES))
    waveform = np.zeros((rows, max(SAMPLES)), np.int16)
    mask = np.zeros((rows, length), bool)
    negatives = np.zeros((rows, length, DISTRACTORS), np.int32)
    for row, samples in enumerate(SAMPLES):
        waveform[row, :samples] = np.clip(rng.normal(size=samples) * 8000, -32768, 32767)
        frames = config.frames(samples)
        mask[row, rng.choice(frames, frames // 2, replace=False)] = True
        masked = np.flatnonzero(mask[row])
        for frame in masked:
            others = masked[masked != frame]
            negatives[row, frame] = rng.choice(others, DISTRACTORS)
    gumbel = rng.gumbel(size=(rows, length, config.groups, config.codewords))
    return {
        "waveform": waveform,
        "samples": np.array(SAMPLES, np.int32),
        "mask": mask,
        "negatives": negatives,
        "gumbel": gumbel.astype(np.float32),
    }


def _forward(model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import torch

    waveform = torch.tensor(inputs["waveform"].astype(np.float32) / 32768)
    valid = torch.arange(waveform.shape[1]) < torch.tensor(inputs["samples"])[:, None]
    rows, length, _ = inputs["negatives"].shape
    flat = inputs["negatives"] + np.arange(rows)[:, None, None] * length
    noise = torch.tensor(inputs["gumbel"]).reshape(-1, inputs["gumbel"].shape[-1])

    def gumbel_softmax(logits, tau, hard):
        soft = ((logits + noise) / model.quantizer.temperature).softmax(-1)
        one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return one_hot - soft.detach() + soft

    # The last hidden state as reported may lack the final norm, which depends on the version.
    last = []
    hook = model.wav2vec2.encoder.register_forward_hook(
        lambda module, arguments, output: last.append(output.last_hidden_state)
    )
    model.set_gumbel_temperature(GUMBEL_TEMPERATURE)
    model.zero_grad()
    original, torch.nn.functional.gumbel_softmax = (
        torch.nn.functional.gumbel_softmax,
        gumbel_softmax,
    )
    try:
        out = model(
            waveform,
            attention_mask=valid.long(),
            mask_time_indices=torch.tensor(inputs["mask"]),
            sampled_negative_indices=torch.tensor(flat),
            output_hidden_states=True,
        )
    finally:
        torch.nn.functional.gumbel_softmax = original
        hook.remove()
    out.loss.backward()

    targets = out.projected_quantized_states
    negatives = targets.reshape(rows * length, -1)[torch.tensor(flat)].permute(2, 0, 1, 3)
    logits = model.compute_contrastive_logits(
        targets[None], negatives, out.projected_states, model.config.contrastive_logits_temperature
    )
    logits[1:][(targets == negatives).all(-1)] = float("-inf")
    result = {
        "targets": targets,
        "contexts": out.projected_states,
        "logits": logits.permute(1, 2, 0),
        "loss": out.loss,
        "contrastive_loss": out.contrastive_loss,
        "diversity_loss": out.diversity_loss,
        "perplexity": out.codevector_perplexity,
    }
    if not model.quantizer.training:  # the quantizer does not touch the context network
        hidden_states = (*out.hidden_states[:-1], last[0])
        result |= {f"hidden/{i}": hidden for i, hidden in enumerate(hidden_states)}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        result[f"gradient/{name}"] = torch.zeros_like(parameter) if gradient is None else gradient
    return {name: value.detach().numpy().copy() for name, value in result.items()}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for flavour in FLAVOURS:
        path = FOLDER / f"wav2vec2_{flavour}.npz"
        np.savez_compressed(path, **reference(flavour, seed=0))
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
