"""What was found in a picture, as --json holds it and as a line tells it."""

from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, List, Union

if TYPE_CHECKING:
    from effedge.deploy.runtime.classifier import Classifier, ClassScore
    from effedge.deploy.runtime.detector import Detections, Detector

    Model = Union[Detector, Classifier]
    Result = Union[Detections, List[ClassScore]]


def as_record(result: "Result") -> Dict[str, Any]:
    """What was found in one picture, as the JSON holds it."""
    if isinstance(result, list):
        return {
            "classes": [
                {"class_id": best.class_id, "label": best.name, "score": round(best.score, 6)} for best in result
            ]
        }
    found = zip(result.boxes.tolist(), result.scores.tolist(), result.class_ids.tolist(), result.names)
    return {
        "detections": [
            {
                "box": [round(side, 2) for side in box],
                "score": round(score, 6),
                "class_id": class_id,
                "label": name,
            }
            for box, score, class_id, name in found
        ]
    }


def summary(record: Dict[str, Any]) -> str:
    """A record in a few words: "2 x cat, 1 x dog", or a classifier's best class and its probability."""
    if "classes" in record:
        best = record["classes"][0]
        return f"{best['label']} ({best['score']:.2f})"
    counts = Counter(found["label"] for found in record["detections"])
    return ", ".join(f"{count} x {label}" for label, count in counts.most_common()) or "nothing"
