"""The journal of an unfinished output: whatever happens to the file, whole entries are read and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from wsi_attn.outputs.journal import Journal


class Part(msgspec.Struct, frozen=True):
    row: int
    name: str = ""


PARTS = [Part(0, "a"), Part(1, "é"), Part(22, "c"), Part(333)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal[Part]:
    journal = Journal(tmp_path / "journal.jsonl", Part)
    for part in PARTS:
        journal.append(part)
    return journal


def test_entries_are_read_and_further_ones_appended(journal: Journal[Part]) -> None:
    again = Journal(journal.path, Part, patience=1000)
    assert again.read() == PARTS
    again.append(Part(4))
    assert Journal(journal.path, Part).read() == PARTS
    again.flush()
    assert Journal(journal.path, Part).read() == [*PARTS, Part(4)]
    again.remove()
    assert Journal(journal.path, Part).read() == []


def test_cut_anywhere_it_recovers_the_whole_entries_and_goes_on(journal: Journal[Part]) -> None:
    data = journal.path.read_bytes()
    for length in range(len(data)):
        journal.path.write_bytes(data[:length])
        again = Journal(journal.path, Part)
        found = again.read()
        assert found == PARTS[: len(found)]
        assert len(found) >= data[:length].count(b"\n") - 1
        again.append(Part(4))
        assert Journal(journal.path, Part).read() == [*found, Part(4)]


def test_an_altered_entry_is_none(journal: Journal[Part]) -> None:
    data = journal.path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            journal.path.write_bytes(altered)
            assert set(Journal(journal.path, Part).read()) <= set(PARTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"[" * 100_000,
        b'{"row":"x"}\n',
        b'{"row":1}\n',
        b'\t\n{"row":1}\t00000000\n',
        b"\xff\xfe\t\r\n",
    ],
)
def test_other_content_holds_no_entry(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    assert Journal(path, Part).read() == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_replaced(make, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    make(path)
    journal = Journal(path, Part)
    assert journal.read() == []
    journal.append(Part(1))
    assert Journal(path, Part).read() == [Part(1)]
