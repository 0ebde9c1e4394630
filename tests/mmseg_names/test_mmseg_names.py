"""Code that imports from ``mmseg`` runs under the names of nlseg, where that is asked for."""

from pathlib import Path

import pytest

from nlseg.config import load_config
from nlseg.errors import ConfigError
from nlseg.models import NLHead
from nlseg.registry import MODELS, TRANSFORMS
from tests.run import prepared

ROOT = Path(__file__).parents[2]
HEAD = """
import mmseg
from mmseg.apis import inference_model, init_model
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import PackSegInputs
from mmseg.evaluation.metrics import IoUMetric
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.fcn_head import FCNHead
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import ConfigType, SampleList, register_all_modules


@MODELS.register_module()
class HalfHead(FCNHead):
    def forward(self, inputs):
        x = self._forward_feature(inputs)
        x = resize(x, scale_factor=0.5, mode="bilinear", align_corners=self.align_corners)
        return self.cls_seg(x)
"""


def test_head_written_for_mmseg_is_built_from_a_config(tmp_path: Path) -> None:
    (tmp_path / "half_head.py").write_text(HEAD)
    name = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"
    (tmp_path / "mine.py").write_text(
        f"_base_ = {str(ROOT / 'configs/quickstart' / f'{name}.py')!r}\n"
        "mmseg_names = True\n"
        "custom_imports = dict(imports=['half_head'])\n"
        "model = dict(auxiliary_head=dict(type='HalfHead'))\n"
    )
    code = (
        "import torch, numpy as np\n"
        "from nlseg.api import init_model, inference_model\n"
        "model = init_model('mine.py', device='cpu')\n"
        "x = model.extract_feat(torch.zeros(1, 3, 64, 64))\n"
        "print(model.auxiliary_head(x).shape[-2:], model.decode_head(x).shape[-2:])\n"
        "from mmseg.models import NLHead\n"
        "print(type(model.decode_head) is NLHead)\n"
        "import mmseg; print(mmseg.__version__)\n"
    )
    done = prepared.run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")[-4:-1]
    assert lines == ["torch.Size([4, 4]) torch.Size([8, 8])", "True", "1.2.2"]


def test_name_that_is_not_here_is_refused(tmp_path: Path) -> None:
    refused = {
        "from mmseg.models import PSPHead": "mmseg.models.PSPHead: nlseg has no such name",
        "from mmseg.models.decode_heads import FCNHaed": "did you mean 'FCNHead'?",
        "from mmseg.models.utils import nchw_to_nlc": "cannot import name 'nchw_to_nlc'",
        "import mmseg.models.backbones.mit": "'mmseg.models.backbones.mit': nlseg does not",
    }
    code = (
        "try:\n    import mmseg\nexcept ModuleNotFoundError:\n    print('not asked for')\n"
        "import nlseg.mmseg_names\n"
    )
    for statement in refused:
        code += f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)\n"
    done = prepared.run("-c", code, cwd=tmp_path)
    lines = done.stdout.strip().split("\n")
    for line, told in zip(lines, ["not asked for", *refused.values()], strict=True):
        assert told in line


def test_helpers_of_losses_and_builders_do_what_mmsegmentations_do(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "import nlseg.mmseg_names\n"
        "from mmseg.models.losses.utils import weight_reduce_loss, weighted_loss\n"
        "from mmseg.models.builder import HEADS, LOSSES, build_head, build_loss\n"
        "from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead\n"
        "@LOSSES.register_module()\n"
        "class Absolute(torch.nn.Module):\n"
        "    def forward(self, *given, **options): return absolute(*given, **options)\n"
        "@weighted_loss\n"
        "def absolute(pred, target, power=1): return (pred - target).abs() ** power\n"
        "loss = build_loss(dict(type='Absolute'))\n"
        "pred, target = torch.tensor([1., 4.]), torch.tensor([0., 2.])\n"
        "weight = torch.tensor([1., 3.])\n"
        "print(loss(pred, target).item(), loss(pred, target, weight, power=2).item())\n"
        "print(loss(pred, target, reduction='none').tolist())\n"
        "print(round(loss(pred, target, avg_factor=1.0).item(), 4))\n"
        "head = build_head(dict(type='FCNHead', in_channels=4, channels=4, num_classes=2))\n"
        "print(type(head).__name__, HEADS is LOSSES)\n"
    )
    done = prepared.run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["1.5 6.5", "[1.0, 2.0]", "3.0", "FCNHead True"]


def test_an_installed_mmsegmentation_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "beside/mmseg").mkdir(parents=True)
    (tmp_path / "beside/mmseg/__init__.py").write_text("real = True\n")
    code = f"import sys\nsys.path.append({str(tmp_path / 'beside')!r})\n"
    code += "try:\n    import nlseg.mmseg_names\nexcept ValueError as error:\n    print(error)\n"
    code += "import mmseg; print(mmseg.real)"
    done = prepared.run("-c", code, cwd=tmp_path)
    told, real = done.stdout.strip().split("\n")
    assert told.startswith("mmseg_names: mmsegmentation itself is installed (")
    assert real == "True"


def test_scope_mmseg_means_ours_from_python() -> None:
    assert MODELS.get("mmseg.NLHead") is NLHead
    built = TRANSFORMS.build({"type": "mmseg.RandomCrop", "crop_size": (4, 4)})
    assert type(built).__module__.startswith("nlseg.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os\nimport not_there\n", r"mine_a\.py:2: ModuleNotFoundError: .*'not_there'$"),
        ("from math import tau_\n", r"mine_a\.py:1: ImportError: cannot import name 'tau_'"),
        ("x = (\n", r"mine_a\.py:1: SyntaxError"),
        ("import mmseg.models\n", "mmseg_names = True' in the config"),
    ],
)
def test_cause_of_a_failing_import_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_a.py").write_text(text)
    (tmp_path / "x.py").write_text("custom_imports = dict(imports=['mine_a'])\n")
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(tmp_path / "x.py", check=False)
    assert "PYTHONPATH" not in str(caught.value)
    (tmp_path / "y.py").write_text("custom_imports = dict(imports='not_there.below')\n")
    with pytest.raises(ConfigError, match=r"no module 'not_there'.*PYTHONPATH"):
        load_config(tmp_path / "y.py", check=False)


def test_config_of_0x_and_unknown_keys_are_answered_in_one_error(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_text((ROOT / "tests/tools/gcnet_of_0x.py.txt").read_text())
    with pytest.raises(ConfigError) as caught:
        load_config(old)
    lines = str(caught.value).split("\n")
    assert len(lines) == 1
    assert "a config of mmsegmentation 0.x (data, " in lines[0]
    assert f"'nlseg migrate {old} --out-dir DIR' (or tools/misc/migrate_config.py)" in lines[0]
    mine = tmp_path / "mine.py"
    base = ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
    mine.write_text(f"_base_ = {str(base)!r}\nmy_note = 3\n")
    with pytest.raises(ConfigError, match=r"'my_note'.*--allow-unknown-keys"):
        load_config(mine)
    assert load_config(mine, allow_unknown=True).my_note == 3
