"""The one text table, for terminals and logs."""

from collections.abc import Sequence


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, rule: bool = True
) -> str:
    """Lay out cells in columns: text to the left, numbers to the right.

    Args:
        header: One title a column.
        rows: Cells, as many a row as there are titles. Floats get two decimals, NaN a dash.
        rule: Draw a line below the titles.

    Returns:
        The table, without a newline at its end.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]
    lines = [header, ["-" * width for width in widths]] if rule else [header]
    return "\n".join(_line(line, widths, right) for line in [*lines, *cells])


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "-" if cell != cell else f"{cell:.2f}"  # noqa: PLR0124 - only NaN differs from itself
    return str(cell)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = zip(cells, widths, right, strict=True)
    return "  ".join(f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in parts).rstrip()
