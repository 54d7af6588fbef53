"""Modified CPC in the layout of its published code: names of weights, arguments, files.

A folder as that code reads it: ``checkpoint_<step>.pt`` with the network under "gEncoder" and the
predictors under "cpcCriterion", ``checkpoint_args.json`` and ``checkpoint_logs.json``. Buffers that
are functions of sizes (the causal mask, a column of zeros) are written too, since it asks for them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax.config import Config
from xlsr_jax.interop.tensor_file import finite
from xlsr_jax.models import cpc
from xlsr_jax.schema import ConfigError

PUBLISHED = cpc.ModelConfig()
# What the published code has fixed, and what its predictors have.
FIXED = ("conv_kernels", "conv_strides", "conv_paddings")
PREDICTORS = ("heads", "ffn")
HOP = 160  # samples between frames

Named = Iterator[tuple[str, np.ndarray]]


def check(config: Config) -> None:
    """Raises ``ConfigError`` where the published code has no such network."""
    model, mend = config.model, "; export it with --format=safetensors"
    if config.method != "cpc":
        raise ConfigError(f"--format=cpc is for runs of method cpc, not {config.method}{mend}")
    fixed = FIXED + (PREDICTORS if model.predictors == "transformer" else ())
    for name in fixed:
        if getattr(model, name) != getattr(PUBLISHED, name):
            raise ConfigError(
                f"the published CPC has model.{name}={getattr(PUBLISHED, name)}, this run "
                f"{getattr(model, name)}{mend}"
            )
    if len(set(model.conv_dims)) > 1:
        raise ConfigError(
            f"the published CPC has one width for all of model.conv_dims, this run "
            f"{model.conv_dims}{mend}"
        )


def encoder(params: Mapping[str, Any], config: cpc.ModelConfig) -> Named:
    """Their "gEncoder": convolutions, norms and the recurrent network."""
    for i in range(len(config.conv_dims)):
        conv, norm = (params["feature_encoder"][f"{name}_{i}"] for name in ("conv", "norm"))
        yield f"gEncoder.conv{i}.weight", conv["kernel"].transpose(2, 1, 0)
        yield f"gEncoder.conv{i}.bias", conv["bias"]
        yield f"gEncoder.batchNorm{i}.weight", norm["scale"].reshape(1, -1, 1)
        yield f"gEncoder.batchNorm{i}.bias", norm["bias"].reshape(1, -1, 1)
    for ours, theirs in (("input", "ih"), ("hidden", "hh")):
        part = params["context_network"][ours]
        yield f"gAR.baseNet.weight_{theirs}_l0", part["kernel"].T
        yield f"gAR.baseNet.bias_{theirs}_l0", part["bias"]


LINEAR = {"ffn_in": "ffnetwork.lin1", "ffn_out": "ffnetwork.lin2"}
BARE = {"query": "Wq", "key": "Wk", "value": "Wv", "out": "Wo"}
NORMS = {"attention_norm": "ln_multihead", "ffn_norm": "ln_ffnetwork"}


def criterion(params: Mapping[str, Any], config: cpc.ModelConfig) -> Named:
    """Their "cpcCriterion": the predictors."""
    predictors = params["predictors"]
    for k in range(config.steps):
        theirs = f"wPrediction.predictors.{k}"
        if config.predictors == "linear":
            yield f"{theirs}.weight", predictors["kernel"][k].T
            continue
        theirs += ".0"  # the one layer of a sequence
        for ours, name in BARE.items():
            yield f"{theirs}.multihead.{name}.weight", predictors[ours]["kernel"][k].T
        # Theirs has the farthest frame first.
        yield f"{theirs}.multihead.Att.Krelpos", predictors["distance"][k][::-1].T
        length = config.distances
        yield f"{theirs}.multihead.Att.z", np.zeros((1, length, 1), np.float32)
        future = np.triu(np.ones((1, length, length), bool), 1)
        yield f"{theirs}.multihead.Att.mask", np.where(future, -np.inf, 0).astype(np.float32)
        for ours, name in LINEAR.items():
            yield f"{theirs}.{name}.weight", predictors[ours]["kernel"][k].T
            yield f"{theirs}.{name}.bias", predictors[ours]["bias"][k]
        for ours, name in NORMS.items():
            yield f"{theirs}.{name}.weight", predictors[ours]["scale"][k]
            yield f"{theirs}.{name}.bias", predictors[ours]["bias"][k]


def arguments(config: Config) -> dict[str, Any]:
    """Their checkpoint_args.json: what differs from their defaults, and what they look up."""
    model, optimizer = config.model, config.optimizer
    return {
        "hiddenEncoder": model.conv_dims[-1],
        "hiddenGar": model.dim,
        "nPredicts": model.steps,
        "negativeSamplingExt": config.objective.negatives,
        "learningRate": optimizer.peak_lr,
        "beta1": optimizer.beta1,
        "beta2": optimizer.beta2,
        "epsilon": optimizer.epsilon,
        "sizeWindow": (model.distances + model.steps) * HOP,
        "samplingType": "samespeaker" if config.data.same_speaker else "uniform",
        "encoder_type": "cpc",
        "normMode": "layerNorm",
        "arMode": model.context.upper(),
        "rnnMode": model.predictors,
        "dropout": model.prediction_dropout > 0,
        "load": None,
    }


def write(folder: Path, params: Mapping[str, Any], config: Config, step: int) -> int:
    """Writes the three files; returns the number of tensors.

    Raises:
      ConfigError: another network than theirs, or PyTorch, which writes the .pt, is missing.
      CheckpointError: a weight that holds NaN or infinity.
    """
    check(config)
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "--format=cpc writes a .pt file with PyTorch: pip install torch, or "
            "--format=safetensors"
        ) from error

    def tensors(named: Named) -> dict[str, Any]:
        mask = lambda name: name.endswith(".mask")  # noqa: E731
        return {
            name: torch.from_numpy((value if mask(name) else finite(name, value)).copy())
            for name, value in named
        }

    state = {
        "gEncoder": tensors(encoder(params, config.model)),
        "cpcCriterion": tensors(criterion(params, config.model)),
    }
    written = sum(map(len, state.values()))
    state |= {"optimizer": None, "best": state["gEncoder"]}
    torch.save(state, folder / f"checkpoint_{step}.pt")
    texts = {"checkpoint_args.json": arguments(config), "checkpoint_logs.json": {"epoch": []}}
    for name, value in texts.items():
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")
    return written
