"""How fairseq names the parameters of wav2vec 2.0, and writes down its convolutions."""

import re
from typing import Any

from xlsr_jax.schema import ConfigError

WRAPPED, OUTPUT = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
MOST_CONVOLUTIONS = 64

# Names, whole ones: theirs, and transformers' (@ is the model's prefix there).
NAMES = [
    (r"mask_emb", "@masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(\w+)",
     r"@feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?\.(\w+)",
     r"@feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"layer_norm\.(\w+)", r"@feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(\w+)", r"@feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.(.+)", r"@encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layer_norm\.(\w+)", r"@encoder.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv]|out)_proj\.(\w+)",
     r"@encoder.layers.\1.attention.\2_proj.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", r"@encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(\w+)",
     r"@encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(\w+)", r"@encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(\w+)",
     r"@encoder.layers.\1.final_layer_norm.\2"),
    (r"quantizer\.vars", "quantizer.codevectors"),
    (r"quantizer\.weight_proj\.(\w+)", r"quantizer.weight_proj.\1"),
    (r"project_q\.(\w+)", r"project_q.\1"),
    (r"final_proj\.(\w+)", r"project_hid.\1"),
]  # fmt: skip


def renamed(name: str, prefix: str, head: str) -> str:
    """A name of theirs as transformers has it; one that is not known as it is."""
    if name.startswith(OUTPUT):
        return head + name.removeprefix(OUTPUT)
    for pattern, theirs in NAMES:
        if match := re.fullmatch(pattern, name.removeprefix(WRAPPED)):
            return match.expand(theirs).replace("@", prefix + ".")
    return name


def parse_convolutions(text: Any) -> list[tuple[int, int, int]]:
    """Channels, taps and stride of each convolution of "[(512, 10, 5)] + [(512, 3, 2)] * 4".

    Raises:
      ConfigError: anything but sums of lists of three numbers, which may be times a number.
    """
    found: list[tuple[int, int, int]] = []
    if not isinstance(text, str) or len(text) > 1_000:
        raise ConfigError(f"conv_feature_layers {str(text)[:80]!r} is no list of convolutions")
    for term in re.sub(r"\s", "", text).split("+"):
        match = re.fullmatch(r"\[((?:\(\d{1,6},\d{1,6},\d{1,6}\),?)+)\](?:\*(\d{1,2}))?", term)
        if match is None:
            raise ConfigError(f"conv_feature_layers {text[:80]!r} is no list of convolutions")
        numbers = [int(number) for number in re.findall(r"\d+", match[1])]
        layers = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        found += layers * int(match[2] or 1)
    if len(found) > MOST_CONVOLUTIONS:
        raise ConfigError(f"conv_feature_layers {text[:80]!r} has {len(found)} convolutions")
    return found
