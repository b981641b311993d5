"""Paths as text: exact and reversible in records, always printable for people.

On Linux a file name is a sequence of bytes that need not be valid UTF-8. Python represents such bytes as lone
surrogates (`os.fsdecode`), which JSON, terminals and image files cannot contain.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

SCHEME = "file:"


def path_to_text(path: Path | str) -> str:
    """Return a path as valid Unicode that `path_from_text` restores exactly.

    A path that is valid Unicode is returned unchanged, with forward slashes on every system. Any other path becomes a
    `file:` URI: an absolute one `file:///data/caf%E9.svs`, a relative one `file:caf%E9.svs`.
    """
    text = Path(path).as_posix()
    if is_unicode(text) and not text.startswith(SCHEME):
        return text
    quoted = quote_from_bytes(os.fsencode(text))
    return f"{SCHEME}//{quoted}" if text.startswith("/") else f"{SCHEME}{quoted}"


def path_from_text(text: str) -> Path:
    """Restore the path from the text of `path_to_text`."""
    if not text.startswith(SCHEME):
        return Path(text)
    return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(SCHEME).removeprefix("//"))))


def printable(text: str) -> str:
    r"""Return text for people: bytes of a file name that are not UTF-8 become escapes such as `\xe9`."""
    if is_unicode(text):
        return text
    return "".join(_escaped(character) for character in text)


def is_unicode(text: str) -> bool:
    """Whether text can be encoded as UTF-8, that is, contains no lone surrogates."""
    return not any(_is_surrogate(character) for character in text)


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _escaped(character: str) -> str:
    if not _is_surrogate(character):
        return character
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
