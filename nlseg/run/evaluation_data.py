"""Data sets as an evaluation needs them: every image once, and none in place of another."""

from typing import Any


def every_image_once(dataset: Any) -> None:
    """Set ``test_mode`` on a data set and on those inside, whether or not the config says so.

    Else a bad file of a data set that replaces bad samples would count another image twice.

    Args:
        dataset: Of a validation or a test; one without ``test_mode`` is left as it is.
    """
    for part in [*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)]:
        if part is not None:
            every_image_once(part)
    if hasattr(dataset, "test_mode"):
        dataset.test_mode = True
