from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch

from moe_train import TrainError
from moe_train.files import (
    append_line,
    disk_errors,
    keep_lines,
    read_json,
    read_jsonl,
    write_folder,
    write_json,
    write_tensors,
    write_text,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \udc80")
    assert read_json(path) == {"n": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "step-1"

    def fill(path: Path) -> None:
        (path / "weights").write_text("w")
        if not target.exists() and (tmp_path / "fail").exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "fail").touch()
    (tmp_path / ".step-1.tmp").mkdir()  # as a kill leaves it
    (tmp_path / ".step-1.tmp" / "old").touch()
    with pytest.raises(TrainError, match="no space left"):
        write_folder(target, fill)
    assert not target.exists()
    assert not (tmp_path / ".step-1.tmp").exists()
    (tmp_path / "fail").unlink()
    write_folder(target, fill)
    assert names(target) == ["weights"]
    write_folder(target, lambda path: (path / "new").touch())
    assert names(target) == ["new"]


def test_torn_last_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for step in range(3):
        append_line(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in read_jsonl(path)] == [0, 1, 2]
    keep_lines(path, lambda line: line["step"] < 2)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'
    assert read_jsonl(tmp_path / "none") == []
    keep_lines(tmp_path / "none", lambda _: True)
    assert not (tmp_path / "none").exists()


def test_disk_errors_are_told_from_bugs(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no space left to write it"), disk_errors(tmp_path / "x" / "y"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(TrainError, match="cannot be written"), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(TrainError, match="mine"), disk_errors(tmp_path):
        raise TrainError("mine") from OSError(errno.ENOSPC, "No space left on device")
    # torch and safetensors wrap the cause in errors of their own.
    with pytest.raises(TrainError, match="no space left"), disk_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("room", [0, 3_000, 50_000, 100_400])
def test_tensors_that_find_no_room(tmp_path: Path, room: int) -> None:
    """No file may grow past `room`: wherever in the file that is, it is said as what it is, and nothing of it stays."""
    values = {"a": [torch.zeros(25_000)], "b": 1}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(TrainError, match="no space left"):
            write_folder(tmp_path / "step-1", lambda path: write_tensors(path / "optimizer.pt", values))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []
    write_folder(tmp_path / "step-1", lambda path: write_tensors(path / "optimizer.pt", values))
    assert torch.equal(torch.load(tmp_path / "step-1" / "optimizer.pt")["a"][0], values["a"][0])


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(TrainError, match="damaged"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "x.json") == {"a": 1}
