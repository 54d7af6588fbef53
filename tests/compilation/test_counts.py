"""Arithmetic, traffic and messages read off compiled programs, against what is known of them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs import ROOT, environment
from xlsr_jax.compilation import counts, program

# A program as a TPU's compiler prints it: a loop of three passes over a fused product, a slice of a
# large array, a copy into the memory on the chip, and messages between eight chips.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%part (q1: bf16[4,32,64], q2: s32[]) -> bf16[32,64] {
  %q1 = bf16[4,32,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %q2 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %part = bf16[1,32,64]{2,1,0} dynamic-slice(%q1, %q2, %zero, %zero), dynamic_slice_sizes={1,32,64}
  ROOT %flat = bf16[32,64]{1,0} bitcast(%part)
}

%product (p0: bf16[16,32], p1: bf16[4,32,64], p2: s32[]) -> bf16[16,64] {
  %p0 = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[4,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %kernel = bf16[32,64]{1,0} fusion(%p1, %p2), kind=kLoop, calls=%part
  ROOT %dot = bf16[16,64]{1,0:T(8,128)(2,1)} convolution(%p0, %kernel), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[16,32], bf16[4,32,64])) -> (s32[], bf16[16,32], bf16[4,32,64]) {
  %state = (s32[]{:T(128)}, bf16[16,32]{1,0}, /*index=2*/bf16[4,32,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[16,32]{1,0} get-tuple-element(%state), index=1
  %w = bf16[4,32,64]{2,1,0} get-tuple-element(%state), index=2
  %y = bf16[16,64]{1,0} fusion(%x, %w, %i), kind=kOutput, calls=%product, metadata={op_name="a/b"}
  %mean = bf16[16,64]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %next = (s32[]{:T(128)}, bf16[16,32]{1,0}, bf16[4,32,64]{2,1,0}) tuple(%i, %x, %w)
}

%condition (at: (s32[], bf16[16,32], bf16[4,32,64])) -> pred[] {
  %at = (s32[]{:T(128)}, bf16[16,32]{1,0}, bf16[4,32,64]{2,1,0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%at), index=0
  %three = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%j, %three), direction=LT
}

ENTRY %main (x: bf16[16,32], w: bf16[4,32,64]) -> bf16[16,32] {
  %x = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[4,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %near = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} copy(%x)
  %begin = s32[]{:T(128)} constant(0)
  %all = (s32[]{:T(128)}, bf16[16,32]{1,0}, bf16[4,32,64]{2,1,0}) tuple(%begin, %x, %w)
  %loop = (s32[], bf16[16,32], bf16[4,32,64]) while(%all), condition=%condition, body=%body
  %whole = bf16[16,256] all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, dimensions={1}
  ROOT %out = bf16[16,32]{1,0} get-tuple-element(%loop), index=1
}
"""
MESH = {"replica": 2, "fsdp": 4, "tensor": 1}


def test_what_runs_in_a_loop_counts_as_often():
    read = program.read(TEXT)
    assert read.runs["body"] == read.runs["product"] == 3 and read.fused == {"product", "part"}
    assert counts.flops(read) == 3 * 2 * 16 * 32 * 64


def test_traffic_is_what_passes_the_main_memory():
    x, kernel, y = 2 * 16 * 32, 2 * 32 * 64, 2 * 16 * 64
    counter = 4
    product = x + kernel + y + counter  # of the stacked kernels only the slice
    mean, gathered = 2 * y, x + 8 * x  # read and written
    copied = x  # into the memory on the chip
    assert counts.traffic(program.read(TEXT)) == 3 * (product + mean) + gathered + copied


def test_messages_by_axes():
    gathered, mean = 2 * 16 * 256, 2 * 16 * 64
    found = {each.kind: each for each in counts.collectives(program.read(TEXT), MESH)}
    assert found["all-gather"].axes == ("replica", "fsdp")
    assert found["all-gather"].sent == gathered * 7 / 8
    assert found["all-reduce"].axes == ("fsdp",) and found["all-reduce"].count == 3
    assert found["all-reduce"].sent == 3 * 2 * mean * 3 / 4


SLICES = """ENTRY %main (x: bf16[32,8,128]) -> bf16[32,8,128] {
  %x = bf16[32,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %after = token[] after-all()
  %send = (bf16[32,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %after), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[32,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) recv(%after), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %done = (bf16[32,8,128]{2,1,0:T(8,128)(2,1)}, token[]) recv-done(%recv), channel_id=1
  ROOT %y = bf16[32,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%done), index=0
}
"""


def test_messages_between_slices():
    """They are transfers to the host; of a sum over n slices 2 (n - 1) / n times is received."""
    read, size = program.read(SLICES), 2 * 32 * 8 * 128
    for slices, times in ((2, 1.0), (4, 1.5)):
        (each,) = counts.collectives(read, MESH, slices)
        assert (each.kind, each.axes, each.count) == ("all-reduce", ("slices",), 1)
        assert each.bytes == size and each.sent == times * size


KERNELS = """ENTRY %main (x: bf16[4,64,128], k: bf16[128,32]) -> bf16[4,64,32] {
  %x = bf16[4,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[128,32]{1,0:T(8,128)(2,1)} parameter(1)
  %start = ((bf16[4,64,128]{2,1,0}), bf16[1,64,128]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)
  %row = bf16[1,64,128]{2,1,0:S(1)} slice-done(%start)
  %room = bf16[4,64,32]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %y = bf16[4,64,32]{2,1,0} custom-call(%x, %x, %k), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"2097152"}}}
}
"""


def test_kernels_and_what_is_fetched_in_parts():
    """A kernel's FLOPs are those that it states; an array that it takes twice overlaps itself."""
    read = program.read(KERNELS)
    assert counts.flops(read) == 2097152
    x, k, y, row = 2 * 4 * 64 * 128, 2 * 128 * 32, 2 * 4 * 64 * 32, 2 * 64 * 128
    assert counts.traffic(read) == x + k + y + row


CONVOLUTION = """ENTRY %main (x: f32[{batch},{length},{width}]) -> f32[1] {{
  %x = f32[{batch},{length},{width}] parameter(0)
  %k = f32[{kernel},{width},{features}] constant({{...}})
  ROOT %y = f32[{batch},{outputs},{features}] convolution(%x, %k), LABELS
}}
""".replace("LABELS", "window={{size={kernel} {window}}}, dim_labels=b0f_0io->b0f")


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "spread"), [(3, 2, (0, 0), 1), (5, 1, (2, 2), 1), (4, 1, (3, 3), 2)]
)
def test_convolutions_count_the_taps_that_meet_an_input(kernel, stride, pad, spread):
    batch, length, width, features = 2, 11, 3, 7
    window = f"stride={stride} pad={pad[0]}_{pad[1]} lhs_dilate={spread}"
    y = jax.eval_shape(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (stride,), [pad], lhs_dilation=(spread,), dimension_numbers=("NTC", "TIO", "NTC")
        ),
        jnp.zeros((batch, length, width)),
        jnp.zeros((kernel, width, features)),
    )
    text = CONVOLUTION.format(**locals(), outputs=y.shape[1])
    # Of ones with ones each output is the number of its taps that meet an input.
    apart = np.zeros((length - 1) * spread + 1)
    apart[::spread] = 1
    met = np.convolve(np.pad(apart, pad), np.ones(kernel), "valid")[::stride]
    assert counts.flops(program.read(text)) == 2 * met.sum() * batch * width * features


def test_a_real_program_agrees_with_the_compilers_own_count():
    def f(x, layers):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0].sum()

    x, layers = jnp.zeros((32, 48)), jnp.zeros((5, 48, 48))
    compiled = jax.jit(f).lower(x, layers).compile()
    read = program.read(compiled.as_text())
    assert counts.flops(read) == 5 * 2 * 32 * 48 * 48
    once = 2 * 32 * 48 * 48 + 32 * 48  # the compiler's: the loop's body once, and its additions
    assert compiled.cost_analysis()["flops"] == pytest.approx(once, rel=0.05)


SHARDED = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P, NamedSharding
from xlsr_jax.compilation import counts, program
from xlsr_jax.parallel.mesh import MeshConfig, make_mesh
mesh = make_mesh(MeshConfig(replica=2, fsdp=2, tensor=1))
x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, P(("replica", "fsdp"))))
w = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
place = NamedSharding(mesh, P())
def f(x, w):
    return jnp.sum(x @ jax.lax.with_sharding_constraint(w, place))
text = jax.jit(jax.grad(f, argnums=1), out_shardings=NamedSharding(mesh, P("fsdp"))).lower(x, w)
for each in counts.collectives(program.read(text.compile().as_text()), dict(mesh.shape)):
    print(each.kind, "+".join(each.axes), each.count, int(each.bytes))
"""


def test_a_sharded_gradient_is_reduced_over_all_rows():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=environment(4),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (reduced,) = [line.split() for line in done.stdout.splitlines() if "reduce" in line]
    assert set(reduced[1].split("+")) == {"replica", "fsdp"} and reduced[2] == "1"
    assert int(reduced[3]) in (64 * 32 * 4, 64 * 32)  # all of it, or rows of ones summed first
