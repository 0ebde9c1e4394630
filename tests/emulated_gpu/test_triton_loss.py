"""The Triton kernel of the loss compiles for real cards, and holds what it has in registers."""

import subprocess
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nlseg.ops import pixel_loss
from nlseg.ops.triton_loss import COLUMNS, MOST_CLASSES, WARPS, _kernel
from tests.emulated_gpu.card import CAPABILITY, Launches

pytestmark = pytest.mark.skipif(not pixel_loss.TRITON_IS_NEW, reason="needs Triton 3.2")
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
POINTERS = {
    "logits": "*fp32", "label": "*i64", "weight": "*fp32", "grad": "*fp32", "each": "*fp32",
    "total": "*fp32", "correct": "*i32", "starts": "*i32", "row_first": "*i64", "row_last": "*i64",
    "row_of_first": "*fp32", "row_of_last": "*fp32", "column_first": "*i64", "column_last": "*i64",
    "column_of_first": "*fp32", "column_of_last": "*fp32",
}  # fmt: skip


@pytest.mark.skipif(CAPABILITY < (8, 0), reason="blocks are taken before Ampere")
@pytest.mark.parametrize(("classes", "sources"), [(32, 16), (MOST_CLASSES, 16), (64, 64)])
def test_the_kernel_compiles_and_spills_nothing(tmp_path, classes, sources):
    constants = {
        "HAS_WEIGHT": True, "NEEDS_GRAD": True, "P": classes, "X": COLUMNS, "S": sources, "ROWS": 8,
    }  # fmt: skip
    names = _kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    sm = 10 * CAPABILITY[0] + CAPABILITY[1]
    compiled = triton.compile(
        ASTSource(_kernel, signature, constexprs=values),
        target=GPUTarget("cuda", sm, 32),
        options={"num_warps": WARPS},
    )
    file = tmp_path / "kernel.ptx"
    file.write_text(compiled.asm["ptx"])
    name = f"sm_{sm}a" if sm == 90 else f"sm_{sm}"
    done = subprocess.run(
        [str(PTXAS), "-v", f"--gpu-name={name}", str(file), "-o", str(tmp_path / "cubin")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


@pytest.mark.usefixtures("real_tensors")
@pytest.mark.skipif(CAPABILITY < (8, 0), reason="blocks are taken before Ampere")
def test_the_kernel_is_launched_once_and_not_in_the_determinism_mode(monkeypatch):
    """As if it had been found right, for here it computes nothing."""
    monkeypatch.setattr(pixel_loss, "fused_kernel_works", lambda _: True)
    logits = torch.zeros(4, 150, 64, 64, device="cuda", requires_grad=True)
    label = torch.zeros(4, 512, 512, device="cuda", dtype=torch.int64)
    pixel_loss.upsampled_cross_entropy(logits, label)  # sends what is kept for these sizes
    launches = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            with Launches() as seen:
                pixel_loss.upsampled_cross_entropy(logits, label)
        finally:
            torch.use_deterministic_algorithms(False)
        launches.append(seen.operators)
    assert launches[0].total() <= 4  # the gradient's zeros, and two sums; Triton's own is not seen
    assert launches[1].total() > 50


@pytest.mark.usefixtures("real_tensors")
@pytest.mark.skipif(CAPABILITY < (8, 0), reason="blocks are taken before Ampere")
def test_the_kernel_is_tried_and_left_where_it_computes_something_else():
    """As here, where it computes nothing."""
    with pytest.warns(UserWarning, match="Triton kernel of the loss does not work here"):
        assert not pixel_loss.fused_kernel_works.__wrapped__(torch.device("cuda", 0))


@pytest.mark.skipif(CAPABILITY >= (8, 0), reason="the kernel is for these")
def test_older_cards_take_blocks():
    assert not pixel_loss.fused_kernel_works(torch.device("cuda", 0))
