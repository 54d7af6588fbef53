"""A checkpoint of another library, described: what it is, and where its tensors go.

The readers of Hugging Face folders and fairseq files make a ``Source``; here it is held against
its own configuration, and becomes parameters of ours.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax.interop import huggingface
from xlsr_jax.interop.tensors import Tensor
from xlsr_jax.interop.tokens import Tokens
from xlsr_jax.models import unispeech
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError

WIDEST_FRAME = 160_000  # samples; the published models' frames see 400
WIDEST = 65_536  # codewords, and widths that no tensor of a bare model tells
MASK = "masked_spec_embed"

INITIALISATIONS = {
    "mask_embedding": "uniform on [0, 1)",
    "quantizer": "codebook uniform on [0, 1), logits N(0, 1) with bias 0",
    "quantized_projection": "uniform by fan-in",
    "context_projection": "uniform by fan-in",
    "target_projection": "uniform by fan-in",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """What a checkpoint is.

    Attributes:
      path: folder or file.
      kind: for people: "Wav2Vec2ForCTC", "fairseq wav2vec_ctc".
      architecture: class of transformers whose names the tensors have.
      method: of ours: "wav2vec2", "unispeech", "finetune".
      model: settings of the network.
      classes: outputs of its classifier; 0 for none.
      tensors: by their names in transformers.
      names: names in transformers to those of the source, where those are others.
      left_out: tensors of the source that have no place, with the reason.
      filled: tensors that the source has not, with what stands for them.
      normalize: whether waveforms have zero mean and unit variance.
      tokens: of the classifier; None without one.
      objective: settings of the objective that the source tells.
      kept: settings that this house has not, for whom it is handed back to.
      updates: that it was trained for; 0 where it does not say.
      notes: for people.
    """

    path: Path
    kind: str
    architecture: str
    method: str
    model: ModelConfig
    classes: int
    tensors: Mapping[str, Tensor]
    normalize: bool
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    filled: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokens: Tokens | None = None
    objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    updates: int = 0
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a source.

    Attributes:
      taken: tensors of the source to parameters of ours, "path/of/ours" or "path/of/ours[layer]".
      left_out: tensors of the source that were not, with the reason.
      initialised: parameters that the source lacks, with their distribution.
    """

    taken: dict[str, str]
    left_out: dict[str, str]
    initialised: dict[str, str]


def parameters(source: Source, seed: int = 0) -> tuple[dict[str, Any], Report]:
    """Parameters of ours, fp32, and what became of the source's tensors.

    Raises:
      ConfigError: a configuration that its tensors contradict.
      CheckpointError: a tensor that is missing, strange, of another shape, or not finite.
    """
    refuse_contradictions(source)
    mask = f"{_prefix(source)}.{MASK}"
    for name, tensor in source.tensors.items():
        if tensor.dtype.kind in "iub":
            raise CheckpointError(
                f"{source.path}: {name} is {tensor.dtype}; convert the checkpoint as it was before "
                "it was quantized"
            )
    try:
        params = huggingface.from_state_dict(
            source.tensors,
            source.model,
            source.classes,
            architecture=source.architecture,
            optional=(mask,),
        )
    except huggingface.UnmatchedWeights as error:
        said = re.sub(r"[\w.]+", lambda m: source.names.get(m[0], m[0]), str(error))
        mend = "; --leave_out=NAMES passes over what is unknown" if "unknown" in said else ""
        raise CheckpointError(f"{source.path}: {said}{mend}") from error
    fresh = _initial(source, params, seed)
    _blank_first(source, params)
    report = Report(
        taken=_taken(source),
        left_out=dict(source.left_out),
        initialised={name: INITIALISATIONS[name] for name in fresh} | dict(source.filled),
    )
    return params | fresh, report


def refuse_contradictions(source: Source) -> None:
    """Raises ``ConfigError`` where settings and tensors tell sizes apart.

    Numbers of heads, strides and dropouts are not in the tensors: there the settings decide.
    """
    told = {name: getattr(source.model, name) for name in ("layers", "conv_dims", "dim", "ffn")}
    told["conv_kernels"] = source.model.conv_kernels
    told["position_kernel"] = source.model.position_kernel
    told["encoder_norm"], told["conv_bias"] = source.model.encoder_norm, source.model.conv_bias
    told["position_groups"], told["classes"] = source.model.position_groups, source.classes
    told["groups x codewords"] = source.model.groups * source.model.codewords
    for name, found in _sizes(source).items():
        if found != told[name]:
            raise ConfigError(
                f"{source.path} contradicts itself: {name} is {told[name]} by its configuration "
                f"and {found} by its tensors; mend the configuration"
            )
    for name in ("code_dim", "final_dim"):
        if getattr(source.model, name) > WIDEST:
            raise ConfigError(f"{source.path}: {name} is {getattr(source.model, name):,}; mend it")
    if source.model.groups * source.model.codewords > WIDEST:
        raise ConfigError(f"{source.path}: more than {WIDEST:,} codewords; mend their number")
    window, _ = source.model.geometry
    if window > WIDEST_FRAME:
        raise ConfigError(f"{source.path}: a frame would see {window} samples; mend the strides")
    if source.tokens is not None and len(source.tokens.names) != source.classes:
        raise ConfigError(
            f"{source.path}: the vocabulary {source.tokens.origin} has "
            f"{len(source.tokens.names)} tokens and the classifier {source.classes} outputs; give "
            "the vocabulary that it was trained with by --vocabulary=FILE"
        )


def _sizes(source: Source) -> dict[str, Any]:
    """Settings as the tensors tell them, those that they do tell."""
    prefix = _prefix(source)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    conv, layer = f"{prefix}.feature_extractor.conv_layers", f"{prefix}.encoder.layers"
    sizes: dict[str, Any] = {}
    kernels = [shapes.get(f"{conv}.{i}.conv.weight") for i in range(_count(shapes, conv))]
    if kernels and all(kernel and len(kernel) == 3 for kernel in kernels):
        sizes["conv_dims"] = tuple(kernel[0] for kernel in kernels)
        sizes["conv_kernels"] = tuple(kernel[2] for kernel in kernels)
        sizes["conv_bias"] = f"{conv}.0.conv.bias" in shapes
    if len(kernels) > 1:
        normed = f"{conv}.1.layer_norm.weight" in shapes
        sizes["encoder_norm"] = "layer" if normed else "group"
    if layers := _count(shapes, layer):
        sizes["layers"] = layers
    into = shapes.get(f"{layer}.0.feed_forward.intermediate_dense.weight", ())
    if len(into) == 2:
        sizes["ffn"], sizes["dim"] = into
    position = f"{prefix}.{huggingface.WEIGHT_NORM}weight_v"
    taps = shapes.get(position) or shapes.get(huggingface.ALIASES[position], ())
    if len(taps) == 3 and taps[1]:
        sizes["position_groups"], sizes["position_kernel"] = taps[0] // taps[1], taps[2]
    codes = shapes.get("quantizer.weight_proj.weight", ())
    if len(codes) == 2:
        sizes["groups x codewords"] = codes[0]
    output = shapes.get("lm_head.weight") or shapes.get("ctc_proj.weight") or ()
    if len(output) == 2:
        sizes["classes"] = output[0]
    return sizes


def _count(names: Mapping[str, Any], start: str) -> int:
    """How many there are of ``start.0``, ``start.1``, ...: one more than the largest number."""
    found = (re.match(re.escape(start) + r"\.(\d{1,6})\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _prefix(source: Source) -> str:
    return "unispeech" if source.architecture.startswith("UniSpeech") else "wav2vec2"


def _initial(source: Source, params: dict[str, Any], seed: int) -> dict[str, Any]:
    """What training needs and the source has not: its mask embedding, and heads of a bare model."""
    import jax

    from xlsr_jax.models.layers import init_linear
    from xlsr_jax.models.quantizer import Quantizer

    c = source.model
    is_unispeech = isinstance(c, unispeech.ModelConfig)
    quantizer = Quantizer(c.groups, c.codewords, c.code_dim)
    features = np.zeros((1, 1, c.conv_dims[-1]), np.float32)
    draw = {"mask_embedding": lambda key: jax.random.uniform(key, (c.dim,))}
    if source.architecture.endswith("Model"):
        draw["quantizer"] = lambda key: quantizer.init(key, features)["params"]
        draw["quantized_projection"] = lambda key: init_linear(key, c.code_dim, c.final_dim)
        if is_unispeech:
            draw["target_projection"] = lambda key: init_linear(key, c.final_dim, c.dim)
        else:
            draw["context_projection"] = lambda key: init_linear(key, c.dim, c.final_dim)
    wanted = {name: make for name, make in draw.items() if name not in params}
    keys = jax.random.split(jax.random.key(seed), len(draw))
    drawn = {name: make(key) for (name, make), key in zip(wanted.items(), keys, strict=False)}
    return jax.tree.map(np.asarray, drawn)


def _blank_first(source: Source, params: dict[str, Any]) -> None:
    """Puts the classifier's row of the blank first, in place."""
    if source.tokens is None or source.tokens.blank == 0:
        return
    output = params["ctc_output" if source.method == "unispeech" else "output"]
    for name, value in output.items():
        output[name] = value[..., list(source.tokens.order)]


def _taken(source: Source) -> dict[str, str]:
    places = {}
    for entry in huggingface.entries(source.model, source.classes, source.architecture):
        alias = huggingface.ALIASES.get(entry.theirs, entry.theirs)
        theirs = entry.theirs if entry.theirs in source.tensors else alias
        if theirs in source.tensors and theirs not in source.filled:
            place = "/".join(entry.ours) + ("" if entry.layer is None else f"[{entry.layer}]")
            places[source.names.get(theirs, theirs)] = place
    return places
