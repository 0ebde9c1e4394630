"""The README of a published model: a model card of the Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nlseg.errors import UserError
from nlseg.evaluation.scores import beside_mean
from nlseg.files import sha256_of
from nlseg.zoo.receipt import Receipt, problems


def card_of(
    name: str,
    config: Mapping[str, Any],
    *,
    source: str,
    weights_file: str,
    licence: str,
    data_set: str | None,
    score: Mapping[str, Any] | None,
    example: bool = True,
) -> str:
    """Return the text of ``README.md``.

    Args:
        name: Of the model.
        config: The content of ``config.json``.
        source: What ``from_pretrained`` is given: ``OWNER/NAME``, or a folder.
        weights_file: Name of the ``.pth``.
        licence: Identifier of the Hub, such as ``apache-2.0``.
        data_set: Name of the data set.
        score: What ``score_of`` gave; None for no score.
        example: Whether the folder holds ``example.jpg``.
    """
    head: dict[str, Any] = {
        "library_name": "nlseg",
        "pipeline_tag": "image-segmentation",
        "license": licence,
        "tags": ["semantic-segmentation", "nlseg"],
    }
    if data_set is not None:
        head["datasets"] = [data_set]
    if score is not None:
        head["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
                        "dataset": {"name": data_set or "unnamed", "type": data_set or "unnamed"},
                        "metrics": [
                            {"type": "mean_iou", "name": score["name"], "value": score["mIoU"]}
                        ],
                    }
                ],
            }
        ]
    model = config["model"]
    heads = model["decode_head"]
    last = heads[-1] if isinstance(heads, list) else heads
    said = "No score comes with it: none was given with a receipt."
    if score is not None:
        said = f"{score['name']} {score['mIoU']:.2f} on {score['images']} images ({data_set})"
        said += f"{beside_mean(score.get('unscored', ()))}."
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {name}",
            "",
            f"{last['type']} on {model['backbone']['type']}, {len(config['classes'])} classes. "
            f"{said}",
            "",
            *(["![An example: image and prediction](example.jpg)", ""] if example else []),
            "```python",
            "from nlseg.publish.pretrained import PretrainedSegmentor",
            f'model = PretrainedSegmentor.from_pretrained("{source}")',
            'label = model.label("photo.jpg")  # (H, W), numbers of the classes',
            "```",
            "",
            f"Classes: {', '.join(config['classes'])}.",
            "",
            f"`{weights_file}` holds the weights under the names of mmsegmentation 1.x.",
            "",
        ]
    )


def score_of(receipt: Receipt, checkpoint: Path) -> dict[str, Any]:
    """Return name, value and number of images of a receipt's mIoU.

    Args:
        receipt: From a test or a verification.
        checkpoint: The file that is published.

    Raises:
        UserError: The receipt is unsound, partial, without mIoU, or of other weights.
    """
    wrong = problems(receipt)
    if wrong:
        raise UserError(f"{receipt.path}: {'; '.join(wrong)}")
    if receipt.is_partial:
        raise UserError(f"{receipt.path}: is of a part of the data set only; test without --limit")
    weights = receipt.facts["weights"] or {}
    if weights.get("sha256") != sha256_of(checkpoint):
        raise UserError(
            f"{receipt.path}: is of other weights ({weights.get('file', 'not named')}) than "
            f"{checkpoint.name}; run nlseg test with this file"
        )
    if receipt.scores.get("mIoU") is None:
        raise UserError(f"{receipt.path}: holds no mIoU")
    several = receipt.facts["protocol"]["multi_scale_and_flip"]
    return {
        "name": "mIoU (multi-scale + flip)" if several else "mIoU",
        "mIoU": receipt.scores["mIoU"],
        "images": len(receipt.images.names),
        "unscored": [
            name for name, value in zip(
                receipt.classes, receipt.facts["per_class"]["IoU"], strict=True)
            if value is None
        ],
    }  # fmt: skip
