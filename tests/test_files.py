"""Files and folders: whole or not at all, beside other writers, and clear words where they fail."""

import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dalle_base.common.errors import UserError
from dalle_base.common.files import (
    check_free,
    prepare_file,
    prepare_folder,
    write_file,
    write_folder,
)

FULL = Path("/dev/full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_folder(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a").write_text(text)

    return write


def fill_file(text: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(text)

    return write


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, Path]:
    """A folder and a file that are there already."""
    folder, file = tmp_path / "checkpoint", tmp_path / "figures.json"
    write_folder(folder, fill_folder("old"))
    write_file(file, fill_file("old"))
    return folder, file


def assert_as_it_was(folder: Path, file: Path) -> None:
    assert names(folder.parent) == [folder.name, file.name]
    assert names(folder) == ["a"]
    assert (folder / "a").read_text() == file.read_text() == "old"


def test_what_is_written_replaces_the_old_and_leaves_no_litter(old: tuple[Path, Path]) -> None:
    folder, file = old

    def look(new: Path) -> None:
        assert new.parent == folder.parent  # on one disk, so that it can be renamed
        assert (folder / "a").read_text() == file.read_text() == "old"

    def fill(new: Path) -> None:
        look(new)
        (new / "b").write_text("new")

    write_folder(folder, fill)
    assert names(folder) == ["b"]
    (folder / "b").rename(folder / "a")
    (folder / "a").write_text("old")
    write_file(file, lambda new: (look(new), new.write_text("new"))[0])
    assert file.read_text() == "new"
    assert names(folder.parent) == [folder.name, file.name]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_folder(tmp_path / "a/b/c", fill_folder("x"))
    write_file(tmp_path / "d/e/f.json", fill_file("x"))
    assert (tmp_path / "a/b/c/a").read_text() == (tmp_path / "d/e/f.json").read_text() == "x"


def test_a_file_has_the_usual_rights_whatever_its_writer_gave(tmp_path: Path) -> None:
    def private(new: Path) -> None:
        new.write_text("x")
        new.chmod(0o600)

    write_file(tmp_path / "file", private)
    (tmp_path / "usual").touch()
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "usual")]
    assert rights[0] == rights[1]


FULL_DISK = [
    OSError(28, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("PytorchStreamWriter failed writing file data: No space left on device"),
]


@pytest.mark.parametrize("error", FULL_DISK, ids=lambda error: type(error).__name__)
def test_a_full_disk_leaves_all_as_it_was(old: tuple[Path, Path], error: Exception) -> None:
    folder, file = old

    def full_folder(new: Path) -> None:
        (new / "a").write_text("new")
        raise error

    def full_file(new: Path) -> None:
        new.write_text("new")
        raise error

    for write, target, content in (
        (write_folder, folder, full_folder),
        (write_file, file, full_file),
    ):
        with pytest.raises(UserError, match="the disk is full; free some space") as found:
            write(target, content)
        assert str(target) in str(found.value)
        assert "\n" not in str(found.value)
        assert_as_it_was(folder, file)


@pytest.mark.skipif(not FULL.is_char_device(), reason="a device of Linux")
def test_what_the_system_says_of_a_full_disk_is_understood(old: tuple[Path, Path]) -> None:
    folder, file = old

    def fill(_: Path) -> None:
        with FULL.open("wb") as full:
            full.write(b"x")

    for write, target in ((write_folder, folder), (write_file, file)):
        with pytest.raises(UserError, match="the disk is full"):
            write(target, fill)
        assert_as_it_was(folder, file)


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged_and_leave_no_litter(
    old: tuple[Path, Path], error: BaseException
) -> None:
    folder, file = old

    def fail(new: Path) -> None:
        raise error

    for write, target in ((write_folder, folder), (write_file, file)):
        with pytest.raises(type(error)) as found:
            write(target, fail)
        assert found.value is error
        assert_as_it_was(folder, file)


def test_an_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    old: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = old
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(UserError, match=r"cannot write .*Input/output error"):
        write_folder(folder, fill_folder("new"))
    assert_as_it_was(folder, file)


def test_a_place_below_a_file_cannot_be_written(old: tuple[Path, Path]) -> None:
    folder, file = old
    for below in (file / "x", file / "x/y"):
        for attempt in (
            lambda below=below: write_folder(below, fill_folder("new")),
            lambda below=below: write_file(below, fill_file("new")),
            lambda below=below: prepare_folder(below),
            lambda below=below: prepare_file(below),
        ):
            with pytest.raises(UserError, match=r"cannot write .*; choose another f") as found:
                attempt()
            assert str(file) in str(found.value)
            assert "\n" not in str(found.value)
            assert_as_it_was(folder, file)


def test_a_file_is_no_folder_and_a_folder_no_file(old: tuple[Path, Path]) -> None:
    folder, file = old
    for attempt, target in (
        (lambda: write_folder(file, fill_folder("new")), file),
        (lambda: prepare_folder(file), file),
        (lambda: write_file(folder, fill_file("new")), folder),
        (lambda: prepare_file(folder), folder),
    ):
        with pytest.raises(UserError, match=r"cannot write .*; choose another f") as found:
            attempt()
        assert str(target) in str(found.value)
        assert_as_it_was(folder, file)


def test_a_place_is_proven_without_a_trace(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "a/b") == tmp_path / "a/b"
    assert names(tmp_path / "a/b") == []
    (tmp_path / "a/b/kept").write_text("x")
    assert prepare_folder(tmp_path / "a/b") == tmp_path / "a/b"
    assert prepare_file(tmp_path / "a/b/new.json") == tmp_path / "a/b/new.json"
    assert prepare_file(tmp_path / "a/b/kept").read_text() == "x"
    assert prepare_file(tmp_path / "c/new.json").parent.is_dir()
    assert names(tmp_path / "a/b") == ["kept"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot write into .*locked: Permission denied; ask"):
        prepare_folder(tmp_path / "locked", "ask its owner")


def test_the_advice_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"; name another with --out$"):
        prepare_folder(tmp_path / "file", "name another with --out")
    with pytest.raises(UserError, match=r"; name another with --json$"):
        prepare_file(tmp_path / "file/x", "name another with --json")
    with pytest.raises(UserError, match=r"it is a folder; name another with --json$"):
        prepare_file(tmp_path, "name another with --json")


@pytest.mark.parametrize("both_there", [False, True])
def test_several_writers_of_one_file_all_succeed(tmp_path: Path, both_there: bool) -> None:
    """Each has written all of it when the first of them puts it into its place."""
    target, count = tmp_path / "file", 4
    if both_there:
        target.write_text("old")
    together = threading.Barrier(count)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        def fill(new: Path) -> None:
            new.write_text(f"{number}" * 1000)
            together.wait(timeout=30)

        try:
            write_file(target, fill)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert target.read_text() in {f"{number}" * 1000 for number in range(count)}
    assert names(tmp_path) == ["file"]


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_free(tmp_path / "new")
    check_free(tmp_path / "empty")
    for taken in ("full", "file", "link"):
        with pytest.raises(UserError, match=f"{taken} exists already"):
            check_free(tmp_path / taken)


def test_a_failure_on_a_full_disk_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch says only that writing failed."""

    def fail(_: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(UserError, match="file write failed; choose another file"):
        write_file(tmp_path / "a", fail)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="the disk is full; free some space"):
        write_file(tmp_path / "a", fail)
