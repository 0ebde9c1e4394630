"""Files that try to run code when they are loaded, one for each known route."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nlseg.errors import CheckpointError
from nlseg.weights.files import read_checkpoint
from tests.faults.forked import Outcome

Maker = Callable[[Path, Path], None]


class Call:
    """Pickles as a call of a global with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def _system(mark: Path) -> Call:
    import os

    return Call(os.system, f"touch {mark}")


def reduce_system(path: Path, mark: Path) -> None:
    torch.save({"state_dict": {}, "x": _system(mark)}, path)


def reduce_eval(path: Path, mark: Path) -> None:
    torch.save({"state_dict": {}, "x": Call(eval, f"open({str(mark)!r}, 'w')")}, path)


def reduce_popen(path: Path, mark: Path) -> None:
    import subprocess

    torch.save({"state_dict": {}, "x": Call(subprocess.Popen, ["touch", str(mark)])}, path)


def legacy_format(path: Path, mark: Path) -> None:
    torch.save({"x": _system(mark)}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"x": _system(mark)}))


def _archive(path: Path, data: bytes, **more: bytes) -> None:
    """Write a PyTorch archive around a hand-made pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def getattr_chain(path: Path, mark: Path) -> None:
    # getattr(mmengine.Config, "fromstring")("...", ".py"): only names that are let through quietly
    code = f"open({str(mark)!r}, 'w')"
    chain = b"cbuiltins\ngetattr\n(cmmengine.config\nConfig\n" + _text("fromstring") + b"tR"
    _archive(path, b"\x80\x02" + chain + b"(" + _text(code) + _text(".py") + b"tR.")


def nested_global(path: Path, mark: Path) -> None:
    # protocol 4 resolves dotted names: torch.serialization -> os -> system
    data = _text("torch.serialization") + _text("os.system") + b"\x93"
    _archive(path, b"\x80\x04" + data + b"(" + _text(f"touch {mark}") + b"tR.")


def quiet_package_function(path: Path, mark: Path) -> None:
    # a function of a package whose names are let through; it must not be called
    data = b"cmmengine.utils\nimport_modules_from_strings\n(" + _text("antigravity") + b"tR"
    call = b"cnumpy.testing._private.utils\nruncstring\n(" + _text(f"open({str(mark)!r},'w')")
    _archive(path, b"\x80\x02(" + data + call + b"}tRcos\nsystem\n(" + _text("true") + b"tRt.")


def tensor_subclass(path: Path, mark: Path) -> None:
    function = b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncbuiltins\nobject\n("
    _archive(path, b"\x80\x02" + function + _text(f"touch {mark}") + b"t}tR.")


def setitem_on_global(path: Path, mark: Path) -> None:
    # BUILD with a state that would replace attributes of a class
    data = b"cbuiltins\n__import__\n(" + _text("os") + b"tR}" + _text("name") + b"Nsb."
    _archive(path, b"\x80\x02" + data)


def extension_code(path: Path, mark: Path) -> None:
    _archive(path, b"\x80\x02\x82\x01.")


def persistent_id(path: Path, mark: Path) -> None:
    data = b"(" + _text("storage") + b"cos\nsystem\n" + _text("0") + _text("cpu") + b"K\x01tQ."
    _archive(path, b"\x80\x02" + data)


def tensor_beyond_its_storage(path: Path, mark: Path) -> None:
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
    shape = b"K\x00(M\xff\xfft(K\x01t\x89"
    extra = b"cnumpy\ndtype\n(" + _text("f4") + b"tR"  # so that PyTorch's own reader refuses it
    data = b"(ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x04tQ" + shape + b"}tR"
    _archive(path, b"\x80\x02" + data + extra + b"t.", **{"data/0": b"\0" * 16})


def zip_bomb(path: Path, mark: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", b"\0" * (64 << 20))


def overlapping_entries(path: Path, mark: Path) -> None:
    """Let several directory entries name the same bytes, so that little becomes much."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * 4096)
        first = archive.filelist[1]
        for number in range(1, 200):
            entry = zipfile.ZipInfo(f"archive/data/{number}")
            entry.header_offset, entry.CRC = first.header_offset, first.CRC
            entry.file_size = entry.compress_size = first.file_size
            archive.filelist.append(entry)
        archive._didModify = True
    path.write_bytes(buffer.getvalue())


def torchscript_program(path: Path, mark: Path) -> None:
    """Write what PyTorch before 2.6 takes for TorchScript, even when asked for weights only."""
    _archive(path, b"\x80\x02}.", **{"constants.pkl": b"\x80\x02).", "code/a.py": b"x = 1\n"})


def legacy_tar(path: Path, mark: Path) -> None:
    """Put a call into the pickle of PyTorch's oldest format."""
    parts = {"storages": pickle.dumps(0), "tensors": pickle.dumps(0)}
    with tarfile.open(path, "w") as archive:
        for name, data in {**parts, "pickle": pickle.dumps(_system(mark))}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def no_archive_at_all(path: Path, mark: Path) -> None:
    path.write_bytes(b"#!/bin/sh\ntouch " + str(mark).encode())


REFUSED: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        reduce_system, reduce_eval, reduce_popen, legacy_format, bare_pickle, getattr_chain,
        nested_global, quiet_package_function, tensor_subclass, setitem_on_global,
        extension_code, persistent_id, tensor_beyond_its_storage, zip_bomb, overlapping_entries,
        torchscript_program, legacy_tar, no_archive_at_all,
    )
}  # fmt: skip


def hash_bomb(path: Path, mark: Path) -> None:
    """Use as a key a pair of a pair of a pair ..., whose hash looks at 2**60 of them."""
    pairs = b"".join(b"q%ch%c\x86" % (number, number) for number in range(60))
    _archive(path, b"\x80\x02})" + pairs + b"K\x01s.")


def keys_with_one_hash(path: Path, mark: Path) -> None:
    """Use as keys numbers that all have the hash 0, each of which is compared with all before."""
    numbers = [(number * ((1 << 61) - 1)).to_bytes(12, "little") for number in range(1, 100_000)]
    items = b"".join(b"\x8a\x0c" + number + b"N" for number in numbers)
    _archive(path, b"\x80\x02}(" + items + b"u.")


def many_tuple_keys(path: Path, mark: Path) -> None:
    items = b"".join(b"J" + struct.pack("<i", number) + b"\x85N" for number in range(20_000))
    _archive(path, b"\x80\x02}(" + items + b"u.")


def lists_that_share_lists(path: Path, mark: Path) -> None:
    """Describe 2**60 values in 300 bytes."""
    pairs = b"".join(b"q%c](h%ch%ce" % (number, number, number) for number in range(60))
    _archive(path, b"\x80\x02}" + _text("state_dict") + b"]" + pairs + b"\x85s.")


def deep_nesting(path: Path, mark: Path) -> None:
    _archive(path, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def list_within_itself(path: Path, mark: Path) -> None:
    _archive(path, b"\x80\x02}" + _text("state_dict") + b"]q\x00h\x00as.")


def too_many_operations(path: Path, mark: Path) -> None:
    _archive(path, b"\x80\x02](" + b"N" * 2_100_000 + b"e.")


def huge_memo(path: Path, mark: Path) -> None:
    """Remember something at place 2**31, up to which Python's own unpickler makes room."""
    _archive(path, b"\x80\x02}r\xff\xff\xff\x7f" + b"K\x01" * 3 + b"...")


def text_that_claims_much(path: Path, mark: Path) -> None:
    path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40))


def long_number(path: Path, mark: Path) -> None:
    number = b"\x8b" + struct.pack("<i", 20_000_000) + b"\x7f" * 20_000_000
    _archive(path, b"\x80\x02}" + _text("iter") + number + b"s.")


def repeated_array(path: Path, mark: Path) -> None:
    """Build one array of a megabyte a hundred thousand times."""
    make = b"cnumpy.core.multiarray\n_reconstruct\nq\x00)R"
    state = b"(K\x01J\x00\x00\x10\x00\x85cnumpy\ndtype\n(" + _text("u1") + b"tR\x89"
    data = b"B" + struct.pack("<I", 1 << 20) + b"\x00" * (1 << 20)
    first = b"(" + make + state + data + b"q\x01tb"
    more = (b"h\x00)R" + state + b"h\x01tb") * 100_000
    _archive(path, b"\x80\x02" + first + more + b"l.")


def zeros_seen_again_and_again(path: Path, mark: Path) -> None:
    """Save 40 GB of zeros as one zero."""
    torch.save({"state_dict": {"weight": torch.zeros(1).expand(10**10)}}, path)


def zeros_with_holes(path: Path, mark: Path) -> None:
    """Save 40 GB of zeros that a file system keeps as nothing."""
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)
    with open(path, "r+b") as file:
        file.truncate(40 << 30)


def zeros_without_a_file(path: Path, mark: Path) -> None:
    """Claim 40 GB of zeros in the layout before PyTorch 1.6."""
    torch.save({"weight": torch.zeros(4096)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"M\x00\x10", b"J\x00\x00\x00\x7f"))


BOMBS: dict[str, tuple[Maker, str]] = {
    maker.__name__: (maker, message)
    for maker, message in (
        (hash_bomb, "a key has more than 64 parts"),
        (keys_with_one_hash, "a key is a number of"),
        (many_tuple_keys, "more than 10,000 keys are tuples"),
        (lists_that_share_lists, "more than 1,000,000 values"),
        (deep_nesting, "nested more than 100 deep"),
        (list_within_itself, "nested more than 100 deep"),
        (too_many_operations, "more than 2,000,000 operations"),
        (huge_memo, "holds a int, not a checkpoint"),
        (text_that_claims_much, "claims a text of 1099511627776 bytes"),
        (long_number, "a number of"),
        (repeated_array, "the same data again and again"),
        (zeros_seen_again_and_again, "the same data again and again"),
        (zeros_with_holes, "of its 40.0 GiB only"),
        (zeros_without_a_file, "is not in the file"),
    )
}


def config_in_meta(path: Path, mark: Path) -> None:
    """Hide code where mmengine evaluates it on resuming; the file itself is plain."""
    code = f"open({str(mark)!r}, 'w')\n"
    torch.save({"meta": {"config": code, "cfg": code, "iter": 1}, "state_dict": {}}, path)


def safetensors_with_code(path: Path, mark: Path) -> None:
    """Put a pickle where a safetensors header belongs."""
    data = pickle.dumps({"x": _system(mark)})
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def safetensors_header_bomb(path: Path, mark: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def safetensors_nested_header(path: Path, mark: Path) -> None:
    text = (b'{"a":' * 50_000) + b"1" + b"}" * 50_000
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def safetensors_overlap(path: Path, mark: Path) -> None:
    entry = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    text = json.dumps({str(number): entry for number in range(9)}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)


SAFETENSORS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        safetensors_with_code, safetensors_header_bomb, safetensors_nested_header,
        safetensors_overlap,
    )
}  # fmt: skip

YAML = {
    "apply": "x: !!python/object/apply:os.system ['touch {mark}']\n",
    "new": "x: !!python/object/new:os.system ['touch {mark}']\n",
    "name": "x: !!python/name:os.system\n",
    "module": "x: !!python/module:antigravity\n",
}


def refused(folder: Path) -> Outcome:
    """Load every hostile file, and count those that were refused without running code."""
    outcome = Outcome("hostile checkpoint or safetensors file")
    folder.mkdir(parents=True, exist_ok=True)
    makers = [(m, ".pth") for m in REFUSED.values()]
    makers += [(m, ".pth") for m, _ in BOMBS.values()]
    makers += [(m, ".safetensors") for m in SAFETENSORS.values()]
    for maker, suffix in makers:
        path, mark = folder / f"{maker.__name__}{suffix}", folder / f"{maker.__name__}.mark"
        maker(path, mark)
        outcome.injected += 1
        try:
            read_checkpoint(path)
            outcome.notes.append(f"{maker.__name__} was not refused")
        except CheckpointError:
            outcome.survived += not mark.exists()
    return outcome
