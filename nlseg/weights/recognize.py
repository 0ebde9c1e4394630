"""What people save under the name of a weight file that is none."""


def what_instead(start: bytes) -> str | None:
    """Say what a file is instead of weights, and what to do about it.

    Args:
        start: Its first bytes.

    Returns:
        None for what may be weights.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty; copy or download it again"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return (
            "is a web page, not weights: the address led to a page about the file, or to an error; "
            "download the file itself"
        )
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "is a git-lfs pointer, not the weights that it stands for; run 'git lfs pull' in the "
            "repository that it comes from"
        )
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "is a compressed file; unpack it first"
    return "is refused: it is empty space, all zeros" if not any(start) else None
