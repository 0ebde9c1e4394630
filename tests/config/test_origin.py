"""Every value of a config is told with the file and line that wrote it, however it was made."""

import textwrap
from pathlib import Path

import pytest
from mmengine.config import Config

from nlseg.config.load import load_config, trace_of
from nlseg.config.marked import Written
from nlseg.config.origin import KeyPath, leaves
from nlseg.config.python_file import ConfigFile
from nlseg.config.read import read_files
from nlseg.config.source import parsed
from nlseg.errors import ConfigError
from tests.cases import each_case

CONFIGS = Path(__file__).parents[2] / "configs"
NONLOCAL = CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py"
BASE = """\
norm = dict(type='BN')
model = dict(
    type='A',
    head=dict(
        type='H',
        norm=norm,
        sizes=[1, (2, 3), dict(a=1)]),
    pretrained=None)
steps = [
    dict(type='Load'),
    dict(type='Resize', scale=(512, 1024)),
]
loader = dict(batch=2, dataset=dict(type='D', pipeline=steps))
rate = 0.5
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / "base.py").write_text(BASE)
    path = folder / name
    path.write_text("_base_ = './base.py'\n" + textwrap.dedent(text))
    return path


def places(path: Path, *wanted: KeyPath) -> list[str]:
    """Return where keys were written, as ``mine:3``, and their values where these differ."""
    trace = trace_of(load_config(path, check=False))
    told = []
    for key in wanted:
        named, where = (
            f"{Path(file).stem}:{line}"
            for file, _, line in (
                trace.named_at(key).partition(":"), trace.where(key).partition(":")
            )
        )  # fmt: skip
        told.append(named if named == where else f"{named} value {where}")
    return told


def errors(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_typo_in_a_function_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"_base_ = {str(NONLOCAL)!r}\n"
        "def head(count):\n"
        "    settings = dict(channels=64)\n"
        "    settings['num_clases'] = count\n"
        "    return settings\n"
        "model = dict(\n"
        "    decode_head=head(19))\n"
    )
    assert errors(path).startswith(f"{path}:4: model.decode_head.num_clases: NLHead has no")


@each_case(
    "text, line",
    [
        (
            "for part in ('decode_head', 'auxiliary_head'):\n    model[part] = dict(\n        x=1)",
            5,
        ),
        ("for part in ('decode_head', 'auxiliary_head'):\n    model[part]['x'] = 1", 4),
        ("model.update({part: dict(x=1) for part in ('decode_head', 'auxiliary_head')})", 3),
        ("model['decode_head'] |= dict(\n    x=1)", 4),
        ("model.update(\n    decode_head=dict(channels=64,\n        x=1))", 5),
        ("from copy import deepcopy\nmodel = deepcopy(model)\nmodel['decode_head']['x'] = 1", 5),
        ("def change():\n    global model\n    model = dict(decode_head=dict(x=1))\nchange()", 5),
        ("model['decode_head'].setdefault('x', 1)", 3),
        ("model = {**model, 'decode_head': {\n    'x': 1}}", 4),
        ("model = dict(model, decode_head=dict(\n    x=1))", 4),
        ("(lambda head: head.update(x=1))(model['decode_head'])", 3),
    ],
)
def test_typo_is_told_at_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "mine.py"
    start = "model = dict(decode_head=dict(channels=64), auxiliary_head=dict(channels=64))\n"
    path.write_text(f"_base_ = {str(NONLOCAL)!r}\n{start}{text}\nused = [change, part] = 1, 2\n")
    assert f"{path}:{line}: model.decode_head.x: NLHead has no 'x'" in errors(path)


def test_typo_in_a_comprehension(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"_base_ = {str(NONLOCAL)!r}\n"
        "steps = [\n"
        "    dict(type='RandomFlip',\n"
        "         porb=0.5)\n"
        "    for _ in range(2)]\n"
        "train_dataloader = dict(dataset=dict(pipeline=steps))\n"
    )
    assert f"{path}:4: train_dataloader.dataset.pipeline.0.porb: RandomFlip has no" in errors(path)


def test_functions_and_what_they_are_given(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        def head(kind, **more):
            return dict(type=kind,
                        **more)
        own = head('X',
                   a=1)
        model = dict(head=head('Y', norm=dict(
            type='GN')))
        """,
    )
    keys: list[KeyPath] = [
        ("own",), ("own", "type"), ("own", "a"), ("model", "head", "type"),
        ("model", "head", "norm", "type"), ("model", "head", "sizes"), ("model", "type"),
    ]  # fmt: skip
    assert places(path, *keys) == [
        "mine:5 value mine:3", "mine:3", "mine:3", "mine:3", "mine:8", "base:7", "base:3",
    ]  # fmt: skip


def test_copies_keep_the_lines_of_what_they_copy(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        from copy import deepcopy
        mine = deepcopy(_base_.model)
        mine['head']['norm']['eps'] = 1
        other = _base_.model | dict(head=dict(
            type='Z'))
        third = dict(_base_.loader,
                     batch=4)
        fourth = {**_base_.loader, 'batch': 5}
        fifth = _base_.loader.copy()
        fifth.batch = 6
        """,
    )
    keys: list[KeyPath] = [
        ("mine", "head", "type"), ("mine", "head", "norm", "eps"), ("mine", "head", "norm", "type"),
        ("other", "head", "type"), ("other", "head", "sizes"), ("third", "dataset", "type"),
        ("third", "batch"), ("fourth", "batch"), ("fourth", "dataset"), ("fifth", "batch"),
        ("fifth", "dataset", "type"), ("model", "head", "norm"), ("loader", "batch"),
    ]  # fmt: skip
    assert places(path, *keys) == [
        "base:5", "mine:4", "base:1", "mine:6", "base:7", "base:13", "mine:8", "mine:9", "base:13",
        "mine:11", "base:13", "base:6 value base:1", "base:13",
    ]  # fmt: skip


def test_what_is_merged_and_what_is_deleted(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        model = dict(head=dict(
            _delete_=True,
            type='G'))
        loader = dict(
            dataset=dict(type='E'))
        _base_.steps[1].scale = (1, 1)
        """,
    )
    keys: list[KeyPath] = [
        ("model", "head"), ("model", "head", "type"), ("model", "pretrained"), ("loader", "batch"),
        ("loader", "dataset", "type"), ("loader", "dataset", "pipeline"), ("steps", 1, "scale"),
        ("steps", 1, "type"),
    ]  # fmt: skip
    assert places(path, *keys) == [
        "mine:2", "mine:4", "base:8", "base:13", "mine:6", "base:13 value base:9", "mine:7",
        "base:11",
    ]  # fmt: skip
    config = load_config(path, check=False)
    assert config.model.head == {"type": "G"}


def test_statements_that_change_what_is_there(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        own = dict(a=1)
        own.update(
            dict(b=2),
            c=3)
        own.update(
            d=4,
            e=own)
        own.pop('e')
        def later():
            global rate, own
            rate = 1
            own |= dict(f=rate)
        later()
        again = _base_.norm
        third = own['b']
        own.update(dict(
            a=7), a=8)
        _base_.loader.update(dataset=dict(
            kind='x'))
        model = dict(x=1)
        """,
    )
    keys: list[KeyPath] = [
        ("own", "a"), ("own", "b"), ("own", "c"), ("own", "d"), ("own", "f"), ("rate",), ("again",),
        ("third",), ("loader", "dataset"), ("loader", "dataset", "type"), ("model",),
    ]  # fmt: skip
    assert places(path, *keys) == [
        "mine:17", "mine:4", "mine:3", "mine:7", "mine:13 value mine:12", "mine:12",
        "mine:15 value base:1", "mine:16 value mine:4", "mine:19", "base:13", "mine:21",
    ]  # fmt: skip


def test_items_of_lists_and_what_variables_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        first = dict(type='First')
        both = [
            first,
            dict(type='Second')]
        table = ((0, 0, 0),
                 (1, 1, 1))
        moved = [
            'a',
            'b']
        moved.insert(0, 'c')
        """,
    )
    keys: list[KeyPath] = [
        ("both", 0), ("both", 1, "type"), ("table", 1), ("table", 1, 2), ("moved", 0), ("moved", 2)
    ]  # fmt: skip
    assert places(path, *keys) == [
        "mine:4 value mine:2", "mine:5", "mine:7", "mine:7", "mine:8", "mine:8",
    ]  # fmt: skip
    config = load_config(path, ["first.type=Other"], check=False)
    assert config.both == [{"type": "Other"}, {"type": "Second"}]
    assert type(config.both) is list
    assert type(config.table) is tuple


def test_override_is_the_origin_of_what_it_sets_and_no_more() -> None:
    given = ["optim_wrapper.optimizer=dict(lr=0.5)", "lr=0.25", "num_workers=0", "batch_size=1"]
    trace = trace_of(load_config(NONLOCAL, given, check=False))
    optimizer = ("optim_wrapper", "optimizer")
    assert trace.where((*optimizer, "lr")) == f"--cfg-options {given[0]}"
    assert trace.where((*optimizer, "momentum")).endswith("schedule_40k.py:1")
    assert trace.where(("optimizer", "lr")) == "--cfg-options lr=0.25"
    assert trace.where(("train_dataloader", "persistent_workers")) == "--cfg-options num_workers=0"
    assert trace.where(("train_dataloader", "batch_size")) == "--cfg-options batch_size=1"
    given = ["optim_wrapper.optimizer=dict(_delete_=True, type='SGD', lr=1)", "custom.deep.x=1"]
    trace = trace_of(load_config(NONLOCAL, given, check=False))
    assert trace.where(optimizer) == trace.where((*optimizer, "lr")) == f"--cfg-options {given[0]}"
    assert trace.where(("custom", "deep", "x")) == f"--cfg-options {given[1]}"


def test_override_of_a_variable_reaches_its_copies_and_only_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        from copy import deepcopy
        source = dict(root='a')
        x = dict(source, split='train')
        y = dict(inside=deepcopy(source), rate=_base_.rate)
        def make(source):
            return dict(source=source)
        z = make(3)
        model = dict(head=dict(norm=dict(eps=1)))
        """,
    )
    config = load_config(path, ["source.root=b", "rate=1", "norm.type=C"], check=False)
    assert config.model.head.norm == {"type": "C", "eps": 1}
    assert config.x == {"root": "b", "split": "train"}
    assert config.y == {"inside": {"root": "b"}, "rate": 1}
    assert config.z == {"source": 3}


def test_override_of_one_item_leaves_the_origins_of_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("custom = dict(\n    x=list(range(3)),\n    y=sorted([dict(b=1)], key=str))\n")
    trace = trace_of(load_config(path, ["custom.x.1=7", "custom.y.0.c=2"], check=False))
    assert trace.where(("custom", "x", 1)) == "--cfg-options custom.x.1=7"
    assert trace.where(("custom", "x", 2)) == f"{path}:2"
    assert trace.where(("custom", "y", 0, "b")) == f"{path}:3"


def test_error_in_a_function_is_told_at_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "def f():\n    return dict(\n        a=nothing)\nx = f()\n")
    with pytest.raises(ConfigError, match=r"mine.py:4: NameError: name 'nothing' is not defined"):
        load_config(path, check=False)


@each_case(
    "text, told",
    [
        ("model = dict(head=dict(type=dict(a=1)))", r"mine.py:2: model.head.type: a dict cannot"),
        ("text = 'x'", r"mine.py:2: 'text' is a word of Config itself"),
        ("x = {{_base_.modle}}", r"mine.py:2: KeyError: there is no 'modle'; did you mean 'model'"),
        ("x = _base_.model.haed", r"mine.py:2: AttributeError: there is no 'haed'; did you mean"),
        ("x = dict(a=1, **dict(a=2))", "mine.py:2: TypeError: .*multiple values"),
        ("if True:\n    _base_ = ['other.py']", "mine.py:3: _base_ is read before the file runs"),
        ("x = []\nfor _ in range(300):\n    x = [dict(x=x)]", "mine.py: nested too deeply"),
        ("x = {}\nx['x'] = x", "mine.py: nested too deeply, or a value refers to itself"),
        ("x = '{{$NOT_SET_ANYWHERE:}}'", "mine.py:2: set the environment's NOT_SET_ANYWHERE"),
        ("x = " + "[" * 250 + "]" * 250, "mine.py"),
        ("x = " + "-" * 20000 + "1", "mine.py"),
    ],
)
def test_what_a_file_gets_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(write(tmp_path, text), check=False)


def test_file_that_inherits_from_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("_base_ = [\n    'b.yaml']\n")
    (tmp_path / "b.yaml").write_text("_base_: a.py\n")
    with pytest.raises(ConfigError, match="inherits from itself"):
        load_config(tmp_path / "a.py", check=False)
    (tmp_path / "b.yaml").write_text("_base_: c.py\n")
    with pytest.raises(ConfigError, match=r"b.yaml:1: _base_: there is no .*c.py"):
        load_config(tmp_path / "a.py", check=False)


def test_base_of_an_installed_package_keeps_its_scope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some_package/.mim/configs/a"
    folder.mkdir(parents=True)
    (tmp_path / "some_package/__init__.py").write_text("")
    (folder / "base.py").write_text("model = dict(type='A', head=dict(type='H'))\nx = dict(y=[])\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text("_base_ = 'some_package::a/base.py'\nmodel = dict(size=1)\n")
    config = load_config(path, check=False)
    assert config.model == {
        "type": "A", "head": {"type": "H"}, "_scope_": "some_package", "size": 1
    }  # fmt: skip
    assert trace_of(config).where(("model", "type")) == f"{folder / 'base.py'}:1"
    path.write_text("_base_ = 'no_such_package::a/base.py'\n")
    with pytest.raises(ConfigError, match=r"mine.py:1: the package 'no_such_package' is not inst"):
        load_config(path, check=False)


CHILDREN = (
    "model = dict(head=dict(norm=dict(type='SyncBN'), _delete_=False))",
    "own = dict(_delete_=True, a=dict(_delete_=True))\nmodel = dict(new=own, head=own)",
    "x = _base_.model.head\ny = dict(**_base_.model, more=1)\n_base_.model.head.norm.type = 'GN'",
    "x = {{_base_.model.head}}\ny = [{{_base_.rate}}, 2]\nz = dict(a=({{_base_.steps}},))",
    "steps = _base_.steps\nsteps[1].update(dict(scale=3), keep=True)\nloader = dict(a=steps)",
    "a = _base_.model | dict(head=dict(norm=dict(type='X')))\nb = dict(head=dict(a=1)) | a",
    "a = {'h': {'a': 1}} | dict(h=2)\na |= dict(c=dict(d=1))\na.update(c=dict(e=1))",
    "a = _base_.model.copy()\na.update(head=dict(q=1))\na.setdefault('z', dict(k=2))",
    "_base_.model.merge(dict(head=dict(_delete_=True, z=1), new=dict(_delete_=True, a=1)))",
    "_base_.loader.merge(dict(_delete_=True, q=dict(r=1)))\n_base_.pop('norm')\nrate = None",
    "def f(n, **kw):\n    return dict(n=n, **kw)\nx = [f(i, k=dict(i=i)) for i in (1, 2)]",
    "x = {k: dict(v=v) for k, v in zip('ab', (1, 2))}\nfor i in 'cd':\n    x[i] = dict(v=i)",
    "(c, *d), e = [1, 2, 3], {1: 2, None: 3, (1, 2): 4}\nf = {**e, 'x': [*d, *d]}\ng = e[1, 2]",
    "x: dict = dict([('a', 1), ('b', dict(c=1))], d=2)\ny = dict({'a-b': 1}, q=3)\nz = {1, 2}",
    "def g():\n    global h\n    h = [x for x in (1, 2)]\n    h += [3]\ng()\nif i := 3:\n    j = i",
    "try:\n    {}['x']\nexcept (KeyError, ValueError):\n    e = '%d-%s' % (3, 'x')\nf = h = dict()",
    "a = '{{ fileBasename }} {{fileBasenameNoExtension }}{{ fileExtname }}'\nb = {{'$UNSET_X:7'}}",
    "a = '{{ fileDirname }}'\nb = {{_base_.loader.dataset}}\nloader = dict(other=b)",
)  # fmt: skip


def types(value: object) -> object:
    if isinstance(value, dict):
        return {key: types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [types(item) for item in value]
    return type(value)


@each_case("text", CHILDREN)
def test_values_are_those_of_mmengine(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text + "\n")
    expected = Config.fromfile(path)
    values, read, _ = read_files(path)
    assert values == expected.to_dict()
    assert list(values) == list(expected.to_dict())
    assert types(values) == types(expected.to_dict())
    assert read == expected.text


@each_case("path", sorted(CONFIGS.rglob("*.py")))
def test_published_files_have_the_values_of_mmengine_and_lines(path: Path) -> None:
    values, read, trace = read_files(path)
    expected = Config.fromfile(path)
    assert repr(values) == repr(expected.to_dict())
    assert read == expected.text
    for key, _ in leaves(values):
        file, _, line = trace.named_at(key).rpartition(":")
        written = (CONFIGS.parent / file).read_text().splitlines()[int(line) - 1]
        assert key[-1] in written if isinstance(key[-1], str) else True


def test_what_a_config_calls_dict_itself_is_called(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = "def dict(**given):\n    return [*given]\nx = dict(a=1, b=2)\n"
    own = ConfigFile(path, base=Written()).run(parsed(text, path))
    assert own == {"x": ["a", "b"]}


@each_case(
    "made",
    [
        "made(num_clases=3)",
        "dict.fromkeys(['num_clases'], 3)",
        "alias(num_clases=3)",
        "partial(dict, num_clases=3)()",
        "next(map(dict, [[('num_clases', 3)]]))",
        "OrderedDict(num_clases=3)",
        "ConfigDict(num_clases=3)",
        "json.loads('{\"num_clases\": 3}')",
    ],
)
def test_a_dict_without_lines_of_its_own_has_the_line_of_its_key(tmp_path: Path, made: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"_base_ = {str(NONLOCAL)!r}\n"
        "import json\n"
        "from collections import OrderedDict\n"
        "from functools import partial\n"
        "from mmengine import ConfigDict\n"
        "alias = dict\n"
        "def made(**settings): return settings\n"
        "model = dict(\n"
        f"    decode_head={made})\n"
    )
    values, _, trace = read_files(path)
    assert values["model"]["decode_head"]["num_clases"] == 3
    assert values["model"]["decode_head"]["type"] == "NLHead"
    key = ("model", "decode_head", "num_clases")
    assert (trace.named_at(key), trace.where(key)) == (f"{path}:9", f"{path}:9")
    assert "nonlocal_r50-d8.py:" in trace.where(("model", "decode_head", "type"))


def test_what_a_whole_config_from_elsewhere_holds_has_the_line_that_took_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        import json
        model = json.loads('{"head": {"norm": {"type": "GN"}, "new": 1}}')
        """,
    )
    keys: list[KeyPath] = [("model", "head", "norm", "type"), ("model", "head", "new")]
    assert places(path, *keys) == ["mine:3", "mine:3"]
    assert places(path, ("model", "head", "type")) == ["base:5"]
