import pytest
import torch
from torch.utils.checkpoint import checkpoint

from nlseg.errors import ConfigError
from nlseg.ops.non_local import MODES, NonLocal2d
from nlseg.registry import MODELS
from tests.cases import each_case
from tests.ops import recorded

every_mode = each_case("mode", MODES)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_block(channels=8, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    return NonLocal2d(channels, **{"zeros_init": False, "std": 0.5, **kwargs}).to(dtype)


def outcome(block, x, grad_out=None):
    """Return output, input gradient and all parameter gradients."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    y = block(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y) if grad_out is None else grad_out)
    return [y.detach(), x.grad, *(p.grad for p in block.parameters())]


# the recorded blocks


@each_case("memory_efficient", [True, False])
@each_case("name", recorded.names("nl|"))
def test_outputs_and_gradients_are_the_recorded_ones(name, memory_efficient):
    case = recorded.cases()[name]
    block = NonLocal2d(**case["kwargs"], memory_efficient=memory_efficient)
    recorded.assert_as_recorded(block, case)


@pytest.mark.parametrize(
    ("key", "norm_cfg"), [("nonlocal2d_32", None), ("nonlocal2d_32_bn", {"type": "BN"})]
)
def test_initial_weights_are_the_recorded_ones(key, norm_cfg):
    expected = recorded.cases()["init|manual_seed0"][key]
    torch.manual_seed(0)
    state = NonLocal2d(32, norm_cfg=norm_cfg).state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


# the formulas


@each_case("sub_sample", [False, True])
@every_mode
def test_output_is_the_formula_of_its_mode(mode, sub_sample):
    block = make_block(4, mode=mode, sub_sample=sub_sample)
    x = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    answers = torch.nn.functional.max_pool2d(x, 2) if sub_sample else x
    theta, phi, g = (x.flatten(2)[0], answers.flatten(2)[0], block.g(x).flatten(2)[0])
    if mode != "gaussian":
        theta, phi = block.theta(x).flatten(2)[0], block.phi(x).flatten(2)[0]
    context = torch.zeros(2, 15, dtype=torch.float64)
    for i in range(15):
        compare = {
            "gaussian": lambda j, i=i: (theta[:, i] @ phi[:, j]).exp().item(),
            "embedded_gaussian": lambda j, i=i: (theta[:, i] @ phi[:, j] / 2**0.5).exp().item(),
            "dot_product": lambda j, i=i: (theta[:, i] @ phi[:, j]).item(),
            "concatenation": lambda j, i=i: max(
                0.0,
                (block.concat_project.conv.weight[0, :2, 0, 0] @ theta[:, i]).item()
                + (block.concat_project.conv.weight[0, 2:, 0, 0] @ phi[:, j]).item(),
            ),
        }[mode]
        weights = [compare(j) for j in range(phi.shape[1])]
        total = sum(weights) if mode.endswith("gaussian") else len(weights)
        context[:, i] = sum(w / total * g[:, j] for j, w in enumerate(weights))
    expected = x + block.conv_out(context.view(1, 2, 5, 3))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


@each_case("size", [(6, 8), (7, 9), (1, 5)])
@each_case("sub_sample", [False, True])
@every_mode
def test_float64_values_and_gradients_equal_the_plain_formula(mode, sub_sample, size, monkeypatch):
    monkeypatch.setattr("nlseg.ops.tiled_attention.LONG_SIDE", 16)
    monkeypatch.setattr("nlseg.ops.tiled_attention.SHORT_SIDE", 5)
    if sub_sample and size[0] == 1:
        size = (2, 5)
    block = make_block(mode=mode, sub_sample=sub_sample)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    ours = outcome(block, x)
    block.memory_efficient = False
    for one, other in zip(ours, outcome(block, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def assert_within(tolerance, ours, true):
    """Compare outcomes; parameter gradients are held against the largest of them.

    The bias of phi, for one, has gradient zero, so its own size is rounding alone.
    """
    largest = max(gradient.abs().max().item() for gradient in true[2:])
    sizes = [true[0].abs().max(), true[1].abs().max(), *[largest] * len(true[2:])]
    for one, other, size in zip(ours, true, sizes, strict=True):
        assert (one.double() - other).abs().max() <= tolerance * size


@each_case("memory_efficient", [True, False])
@each_case(
    "dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
@every_mode
def test_narrow_types_agree_with_float64(mode, dtype, tolerance, memory_efficient):
    block = make_block(64, mode=mode, std=0.1)
    x = torch.randn(1, 64, 24, 20, dtype=torch.float64) / 4
    true = outcome(block, x)
    block.memory_efficient = memory_efficient
    assert_within(tolerance, outcome(block.to(dtype), x.to(dtype)), true)


@every_mode
def test_autocast_agrees_with_float64(mode):
    block = make_block(64, mode=mode, std=0.1)
    x = torch.randn(1, 64, 24, 20, dtype=torch.float64) / 4
    true = outcome(block, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = outcome(block.float(), x.float())
    assert ours[0].dtype == torch.float32, "the residual path is not narrowed"
    assert_within(2e-2, ours, true)


def test_softmax_statistics_are_wide_under_autocast():
    # all positions alike, every weight 1 / 1024: summed in bfloat16, 1024 ones stop at 256
    block = make_block(4, dtype=torch.float32)
    x = torch.ones(1, 4, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = block(x) - x
        value = block.conv_out(block.g(x))
    torch.testing.assert_close(context, value.float(), rtol=0.02, atol=1e-3)


@every_mode
def test_memory_is_linear_in_the_positions(mode):
    block = make_block(16, mode=mode, dtype=torch.float32)
    mib = {side: peak_mib(block, torch.randn(1, 16, side, side)) for side in (32, 64)}
    assert mib[64] <= 4.4 * mib[32] + 3, "4 times the positions, and one tile of 2 MiB"
    block.memory_efficient = False
    assert peak_mib(block, torch.randn(1, 16, 64, 64)) > 64 > 4 * mib[64]


def peak_mib(block, x):
    """Return the most memory that PyTorch holds in forward and backward, above the start."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        outcome(block, x)
    events = profiler.profiler.kineto_results.events()
    deltas = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = torch.tensor([num_bytes for _, num_bytes in deltas]).cumsum(0)
    return held.max().item() / 2**20


# use in networks


@pytest.mark.parametrize(
    ("mode", "sub_sample"), [*((mode, False) for mode in MODES), ("embedded_gaussian", True)]
)
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_compiles_without_graph_break_and_recompilation(mode, sub_sample):
    torch._dynamo.reset()
    block = make_block(mode=mode, sub_sample=sub_sample, dtype=torch.float32)
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(torch.randn(2, 8, 5, 7, requires_grad=True)).sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        x = torch.randn(2, 8, 6, 9)
        for ours, expected in zip(outcome(compiled, x), outcome(block, x), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@every_mode
def test_works_under_checkpointing_and_twice_in_a_graph(mode):
    block = make_block(mode=mode)
    x = torch.randn(1, 8, 4, 6, dtype=torch.float64)
    expected = outcome(torch.nn.Sequential(block, block), x)
    twice = torch.nn.Sequential(block, block)
    twice.forward = lambda x: block(checkpoint(block, x, use_reentrant=False))
    for one, other in zip(outcome(twice, x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@every_mode
def test_memory_layout_of_the_input_does_not_matter(mode):
    block = make_block(mode=mode)
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    for one, other in zip(outcome(block, last), outcome(block, x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert block(last).is_contiguous(memory_format=torch.channels_last)


# initialisation, names, errors


@each_case("norm_cfg", [None, {"type": "BN"}, {"type": "GN", "num_groups": 2}])
@each_case("sub_sample", [False, True])
@every_mode
def test_block_starts_as_identity_and_again_after_init_weights(mode, sub_sample, norm_cfg):
    block = NonLocal2d(8, mode=mode, sub_sample=sub_sample, norm_cfg=norm_cfg)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)
    for parameter in block.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    block.init_weights()
    assert torch.equal(block(x), x)
    assert block.g.state_dict()["0.conv.weight" if sub_sample else "conv.weight"].std() < 0.02


def test_init_weights_keeps_the_arguments():
    block = NonLocal2d(64, std=0.5, zeros_init=False)
    block.init_weights()
    assert block.theta.conv.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert block.conv_out.conv.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_without_std_layers_start_as_pytorch_starts_them():
    block = NonLocal2d(64, norm_cfg={"type": "BN"}, std=None, zeros_init=False)
    bound = 64**-0.5  # nn.Conv2d draws weights and bias evenly from +-1 / sqrt(fan in)
    assert 0.9 * bound < block.theta.conv.weight.abs().max() <= bound
    assert block.conv_out.conv.weight.abs().max() <= 32**-0.5
    assert torch.equal(block.conv_out.bn.weight, torch.ones(64))


def test_sub_sampling_names_its_parameters_as_mmcv():
    names = list(make_block(sub_sample=True).state_dict())
    assert [n for n in names if n.endswith("weight")] == [
        "g.0.conv.weight",
        "conv_out.conv.weight",
        "theta.conv.weight",
        "phi.0.conv.weight",
    ]


def test_block_is_found_by_its_name():
    block = MODELS.build({"type": "NonLocal2d", "in_channels": 8, "mode": "dot_product"})
    assert isinstance(block, NonLocal2d)
    assert NonLocal2d._abbr_ == "nonlocal_block"


def test_unknown_mode_is_refused_with_the_nearest_name():
    message = "NonLocal2d.mode: 'gausian' is not one of .*; did you mean 'gaussian'"
    with pytest.raises(ConfigError, match=message):
        NonLocal2d(8, mode="gausian")


def test_dot_product_stays_in_range_where_its_sum_in_float16_would_not():
    block = NonLocal2d(4, mode="dot_product", reduction=1, zeros_init=False).half()
    for conv, bias in ((block.theta, 1e-3), (block.phi, 190.0), (block.g, 190.0)):
        torch.nn.init.zeros_(conv.conv.weight)
        torch.nn.init.constant_(conv.conv.bias, bias)
    context = block.attend_by_association(torch.zeros(1, 4, 64, 128, dtype=torch.float16))
    expected = 4 * 1e-3 * 190.0 * 190.0  # the mean of key times value: its sum is 8192 times that
    torch.testing.assert_close(
        context.float(), torch.full_like(context, expected).float(), rtol=4e-3, atol=0
    )
