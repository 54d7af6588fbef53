"""Which parameter lives where: one ordered table of (path pattern, PartitionSpec).

Optimizer moments follow the same table, because their paths end in parameter paths. Layers of the
context network are stacked on a leading axis that is never sharded.
"""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

RULES: tuple[tuple[str, P], ...] = (
    (r"context_network/layers/(query|key|value|ffn_in)/kernel", P(None, "fsdp", "tensor")),
    (r"context_network/layers/(query|key|value|ffn_in)/bias", P(None, "tensor")),
    (r"context_network/layers/(out|ffn_out)/kernel", P(None, "tensor", "fsdp")),
    (r"context_network/layers/(out|ffn_out)/bias", P()),
    (r"context_network/layers/(attention_norm|ffn_norm)/(scale|bias)", P()),
    (r"context_network/position/weight_v", P(None, None, "fsdp")),
    (r"context_network/position/(weight_g|bias)", P()),
    (r"context_network/norm/(scale|bias)", P()),
    (r"context_network/(input|hidden)/(kernel|bias)", P()),
    (r"predictors/(query|key|value|ffn_in)/kernel", P(None, "fsdp", "tensor")),
    (r"predictors/(out|ffn_out)/kernel", P(None, "tensor", "fsdp")),
    (r"predictors/(ffn_in|ffn_out)/bias", P()),
    (r"predictors/(attention_norm|ffn_norm)/(scale|bias)", P()),
    (r"predictors/distance", P()),
    (r"predictors/kernel", P(None, "fsdp", "tensor")),
    (r"feature_encoder/conv_\d+/kernel", P(None, None, "fsdp")),
    (r"feature_encoder/conv_\d+/bias", P()),
    (r"feature_encoder/norm_\d+/(scale|bias)", P()),
    (r"feature_norm/(scale|bias)", P()),
    (r"feature_projection/kernel", P("fsdp", "tensor")),
    (r"(quantized|context|target)_projection/kernel", P("fsdp", None)),
    (r"(feature|quantized|context|target)_projection/bias", P()),
    (r"mask_embedding", P()),
    (r"quantizer/logits/kernel", P("fsdp", None)),
    (r"quantizer/(logits/bias|codebook)", P()),
    (r"log_mel_head/(kernel|bias)", P()),
    (r"(ctc_)?output/(kernel|bias)", P()),
)


def path_string(path: tuple[Any, ...]) -> str:
    """A pytree path as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matching_rules(path: str) -> list[P]:
    """Every row of the table that matches a parameter path (exactly one, a test says)."""
    return [spec for pattern, spec in RULES if re.search(rf"(^|/){pattern}$", path)]


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """PartitionSpec of one array of the training state.

    Scalars and counters are whole. An axis that does not divide its dimension is left out for that
    dimension: small models on many devices keep that array whole.

    Raises:
      KeyError: where no rule matches.
    """
    if not shape:
        return P()
    found = matching_rules(path)
    if not found:
        raise KeyError(
            f"no sharding rule for parameter {path} {shape}; add a row to parallel/rules.py"
        )
    axes = tuple(found[0]) + (None,) * (len(shape) - len(found[0]))
    return P(
        *(
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        )
    )


def gathered(params: Any) -> Any:
    """Parameters whole along "fsdp" where they are used: one all-gather each, and of its gradient
    one reduce-scatter.

    Left to itself the partitioner may cut a product into a loop over the shards instead. Stacked
    layers stay as they are: the context network gathers one at a time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return params

    def gather(path, leaf):
        name = path_string(path)
        if "context_network/layers/" in name or not leaf.shape:
            return leaf
        spec = spec_for(name, leaf.shape, mesh)
        whole = P(*(None if axis == "fsdp" else axis for axis in spec))
        return leaf if whole == spec else jax.lax.with_sharding_constraint(leaf, whole)

    return jax.tree_util.tree_map_with_path(gather, params)


def shardings(abstract: Any, mesh: Mesh) -> Any:
    """NamedSharding for every array of a pytree of shapes (parameters or whole training state)."""

    def place(path, leaf):
        return NamedSharding(mesh, spec_for(path_string(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract)
