"""Archives of torch: what is in them comes out, what they want to run does not run."""

import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2

from dalle_base.common.errors import UserError
from dalle_published.archives import MAGIC, PROTOCOL, named_tensors, read_archive

LAYOUTS = ("zip", "legacy", "script")


class Payload:
    """Pickles as a call, and so makes a file when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


class Stateful:
    """Pickles as an object whose state would be set by its own `__setstate__`."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return OrderedDict, (), self.state


class Pickler(pickle.Pickler):
    """Writes a payload where a storage is expected."""

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.payload, "0", "cpu", 1) if isinstance(obj, InStorage) else None


class InStorage:
    def __init__(self, payload: Any) -> None:
        self.payload = payload


def dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def write(
    path: Path, layout: str, content: bytes, storages: dict[str, bytes] | None = None
) -> Path:
    """Put a pickle into one of the layouts."""
    storages = storages or {}
    if layout == "legacy":
        head = [MAGIC, PROTOCOL, {"protocol_version": PROTOCOL, "little_endian": True}]
        parts = [
            *(pickle.dumps(part, 2) for part in head),
            content,
            pickle.dumps(list(storages), 2),
        ]
        for raw in storages.values():
            parts += [struct.pack("<q", len(raw) // 4), raw]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", content)
        file.writestr("model/version", "3\n")
        for key, raw in storages.items():
            file.writestr(f"model/data/{key}", raw)
        if layout == "script":
            file.writestr("model/constants.pkl", pickle.dumps((), 2))
    return path


def tensor_pickle(count: Any, offset: Any, shape: Any, strides: Any) -> bytes:
    """A pickle of one tensor, with any numbers."""

    class Rebuilt:
        def __reduce__(self) -> Any:
            return _rebuild_tensor_v2, (Storage(), offset, shape, strides, False, None)

    class Storage: ...

    class Numbers(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            stored = ("storage", torch.FloatStorage, "0", "cpu", count)
            return stored if isinstance(obj, Storage) else None

    buffer = io.BytesIO()
    Numbers(buffer, 2).dump({"a": Rebuilt()})
    return buffer.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_all_kinds_come_out_as_they_were(tmp_path, zipped) -> None:
    whole = torch.randn(4, 5)
    state = OrderedDict(
        whole=whole,
        part=whole[1:, ::2],
        turned=whole.T,
        half=torch.randn(3).half(),
        bf16=torch.randn(3).bfloat16(),
        double=torch.randn(2, 2).double(),
        whole_numbers=torch.arange(5),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.empty(0, 3),
        parameter=nn.Parameter(torch.randn(2)),
    )
    path = tmp_path / "state.pt"
    torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    archive = read_archive(path)
    assert archive.root["epoch"] == 3
    stored = named_tensors(archive.root["state_dict"])
    assert {name: item.shape for name, item in stored.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    for name, value in archive.tensors(stored).items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])
        assert value.is_contiguous()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_names_of_a_torchscript_archive_are_those_of_its_state_dict(tmp_path) -> None:
    model = nn.Sequential(
        OrderedDict(first=nn.Linear(3, 4), second=nn.Sequential(nn.BatchNorm1d(4)))
    )
    model.eval()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 3)), tmp_path / "model.pt")
    archive = read_archive(tmp_path / "model.pt")
    assert archive.script
    found = archive.tensors(named_tensors(archive.root))
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_a_module_pickled_whole_needs_its_classes_on_the_list(tmp_path) -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), second=nn.ReLU()))
    prefix = "torch.nn.modules."
    allowed = [prefix + name for name in ("container.Sequential", "linear.Linear")]
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        torch.save(model, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.activation\.ReLU"):
            read_archive(path, allowed)
        archive = read_archive(path, [*allowed, prefix + "activation.ReLU"])
        found = archive.tensors(named_tensors(archive.root))
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def nested(place: str, payload: Any) -> Any:
    return {
        "root": payload,
        "value": OrderedDict(state_dict={"a": [1, (2, payload)]}),
        "key": {"state_dict": {payload: 1}},
        "state": {"a": Stateful({"b": payload})},
        "storage": {"a": InStorage(payload)},
        "arguments": Payload(_rebuild_tensor_v2, payload, 0, (1,), (1,), False, {}),
        "second": [Payload(OrderedDict, [("a", 1)]), Payload(OrderedDict, payload)],
    }[place]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "place", ["root", "value", "key", "state", "storage", "arguments", "second"]
)
@pytest.mark.parametrize("kind", ["os.system", "eval", "exec", "getattr", "import", "torch.load"])
def test_a_payload_is_refused_by_name_and_never_runs(tmp_path, layout, place, kind) -> None:
    trace = tmp_path / "trace"
    payload, name = {
        "os.system": (Payload(os.system, f"touch {trace}"), f"{os.name}.system"),
        "eval": (Payload(eval, f"open({str(trace)!r}, 'w')"), "eval"),
        "exec": (Payload(exec, f"open({str(trace)!r}, 'w')"), "exec"),
        "getattr": (Payload(getattr, Payload(eval, "1"), "real"), "getattr"),
        "import": (Payload(__import__, "antigravity"), "__import__"),
        "torch.load": (Payload(torch.load, str(trace)), "torch.serialization.load"),
    }[kind]
    path = write(tmp_path / "m.pt", layout, dumps(nested(place, payload)))
    with pytest.raises(UserError, match=name) as caught:
        read_archive(path, ["torch.nn.modules.linear.Linear"])
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore")
def test_the_payload_of_these_tests_would_run(tmp_path, layout) -> None:
    trace = tmp_path / "trace"
    content = dumps({"a": [Payload(os.system, f"touch {trace}")]})
    path = write(tmp_path / "m.pt", layout, content)
    if layout != "script":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(content)
    assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        # Names with dots, by which an allowed module would lead to another one.
        b"\x80\x04\x8c\x05torch\x8c\x0f_utils.os.system\x93.",
        b"\x80\x02ctorch\nos.system\n.",
        b"\x80\x02c__torch__x\nsystem\n.",
        # The registry of extensions, and the old ways of making an object.
        b"\x80\x02\x82\x01.",
        b"(S'x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'x'\no.",
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_other_way_leads_out(tmp_path, content, layout) -> None:
    with pytest.raises(UserError):
        read_archive(write(tmp_path / "m.pt", layout, content))


@pytest.mark.parametrize(
    "target",
    ["torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "collections\nOrderedDict"],
)
def test_nothing_is_left_behind_for_the_next_file(tmp_path, target) -> None:
    """A state set on a class, not an object, would change it for good."""
    good = tmp_path / "good.pt"
    torch.save({"a": torch.ones(2)}, good)
    state = b"N}U\x07__new__K\x01s\x86b."
    path = write(tmp_path / "bad.pt", "zip", b"\x80\x02c" + target.encode() + b"\n" + state)
    with pytest.raises(UserError):
        read_archive(path)
    archive = read_archive(good)
    assert torch.equal(archive.tensors(named_tensors(archive.root))["a"], torch.ones(2))


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, -1, (2,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2,), (-1,)),
        (4, 0, (-2,), (1,)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (2**40,), (0,)),
        (4, 0, (2.0,), (1,)),
        (4, 0, "ab", (1,)),
        (2**40, 0, (2**40,), (1,)),
        (5, 0, (5,), (1,)),
        (-1, 0, (), ()),
        ("4", 0, (4,), (1,)),
    ],
)
def test_numbers_that_lie_are_refused(tmp_path, layout, count, offset, shape, strides) -> None:
    content = tensor_pickle(count, offset, shape, strides)
    path = write(tmp_path / "m.pt", layout, content, {"0": bytes(16)})
    with pytest.raises(UserError, match=r"m\.pt is damaged"):
        read_archive(path)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_numbers_that_are_right_are_read(tmp_path, layout) -> None:
    raw = struct.pack("<4f", 1, 2, 3, 4)
    path = write(tmp_path / "m.pt", layout, tensor_pickle(4, 1, (2, 2), (1, 1)), {"0": raw})
    archive = read_archive(path)
    found = archive.tensors(named_tensors(archive.root))["a"]
    assert found.tolist() == [[2, 3], [3, 4]]


def test_many_tensors_of_one_storage_cannot_fill_the_memory(tmp_path) -> None:
    tensor = torch.zeros(1000)
    path = tmp_path / "m.pt"
    torch.save({str(i): tensor for i in range(100)}, path)
    archive = read_archive(path)
    with pytest.raises(UserError, match="more values than it holds"):
        archive.tensors(named_tensors(archive.root))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # that many bytes
        b"\x80\x02}N" + b"\x85" * 5_000_000 + b"Ns.",  # a key that is nested so deep
        b"\x80\x02" + b"\x5d\x71\x00" + b"h\x00a" * 3 + b".",  # a list that holds itself
        b"\x80\x02" + b"}q\x00X\x01\x00\x00\x00ah\x00s.",  # and a mapping
        b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"N" + b"s" * 100_000 + b".",
    ],
    ids=["memo", "bytes", "key", "list", "mapping", "mappings"],
)
def test_what_has_no_end_ends(tmp_path, content) -> None:
    path = write(tmp_path / "m.pt", "zip", content)
    try:
        assert named_tensors(read_archive(path).root) == {}
    except UserError as error:
        assert "is damaged" in str(error)  # noqa: PT017


def test_packed_or_overlapping_entries_are_refused(tmp_path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", pickle.dumps({}))
        file.writestr("model/data/0", bytes(10**7))
    with pytest.raises(UserError, match=r"m\.pt is damaged"):
        read_archive(path)
    content = tensor_pickle(4, 0, (4,), (1,))
    whole = write(path, "zip", content, {"0": bytes(16)}).read_bytes()
    # The sizes in the zip's directory, of an entry that is not so long.
    at = whole.rindex(b"model/data/0") - 46
    lying = struct.pack("<LL", 2**31, 2**31)
    path.write_bytes(whole[: at + 20] + lying + whole[at + 28 :])
    with pytest.raises(UserError, match=r"m\.pt is damaged"):
        read_archive(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_gives_one_line_or_does_no_harm(tmp_path, zipped) -> None:
    path = tmp_path / "m.pt"
    state = {"state_dict": nn.Linear(3, 2).state_dict(), "epoch": 1}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    rng = random.Random(0)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(60)]
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 8))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            archive = read_archive(path)
            archive.tensors(named_tensors(archive.root))
        except UserError as error:
            refused += 1
            message = str(error)
            if "\n" in message or str(path) not in message:
                raise AssertionError(message) from error
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        ("folder", "is a folder"),
        (b"", "is damaged"),
        (b"<html>not found</html>", "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is damaged"),
        (b"PK\x03\x04", "the end of a zip file is missing"),
        (pickle.dumps({"a": 1}), "is damaged"),
    ],
)
def test_other_things_than_archives_are_named(tmp_path, content, message) -> None:
    path = tmp_path / "thing"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_archive(path)
    assert str(path) in str(caught.value)
