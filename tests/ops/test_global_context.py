import math

import pytest
import torch

from nlseg.errors import ConfigError
from nlseg.ops.global_context import ContextBlock
from nlseg.registry import MODELS
from tests.cases import each_case
from tests.ops import recorded


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@each_case("name", recorded.names("gc|"))
def test_outputs_and_gradients_are_the_recorded_ones(name):
    case = recorded.cases()[name]
    recorded.assert_as_recorded(ContextBlock(**case["kwargs"]), case)


def test_initial_weights_are_the_recorded_ones():
    expected = recorded.cases()["init|manual_seed0"]["context_block_32_q"]
    torch.manual_seed(0)
    state = ContextBlock(32, 0.25).state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_block_starts_as_identity_when_adding():
    x = torch.randn(1, 8, 3, 5)
    assert torch.equal(ContextBlock(8, 0.5)(x), x)


def test_multiplication_starts_at_one_half():
    x = torch.randn(1, 8, 3, 5)
    assert torch.equal(ContextBlock(8, 0.5, fusion_types=["channel_mul"])(x), x / 2)


def test_context_by_hand():
    # two positions of one channel, 0 and ln 3: softmax weights 1/4 and 3/4, context 3/4 ln 3
    block = ContextBlock(1, 1.0)
    torch.nn.init.constant_(block.conv_mask.weight, 1.0)
    x = torch.tensor([1.0, 3.0]).log().view(1, 1, 1, 2)
    assert block.spatial_pool(x).item() == pytest.approx(0.75 * math.log(3))


def test_average_pooling_has_no_mask():
    block = ContextBlock(2, 0.5, pooling_type="avg")
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 2, 1, 2)
    assert block.spatial_pool(x).flatten().tolist() == [2.0, 6.0]
    assert not any("conv_mask" in name for name in block.state_dict())


def test_block_is_found_by_its_name():
    block = MODELS.build({"type": "ContextBlock", "in_channels": 8, "ratio": 0.25})
    assert isinstance(block, ContextBlock)
    assert ContextBlock._abbr_ == "context_block"


@each_case(
    "arguments, message",
    [
        ({"pooling_type": "max"}, "'max' is not one of 'att', 'avg'"),
        ({"fusion_types": ()}, "is not a list of one or both of channel_add, channel_mul"),
        ({"fusion_types": "channel_add"}, "'channel_add' is not a list"),
        ({"fusion_types": ["channels_add"]}, "channels_add"),
        ({"ratio": 0.01}, "leaves no plane; give at least 0.125"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ContextBlock(8, **{"ratio": 0.5, **arguments})


def test_compiles_without_a_graph_break():
    block = ContextBlock(8, 0.5, fusion_types=["channel_add", "channel_mul"])
    x = torch.randn(2, 8, 3, 5)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
