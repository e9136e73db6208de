"""Where a model has its answers from, in words: from a teacher, and from trainings one after the other."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from milscope.store import Manifest

MODES: Mapping[str, str] = {
    "strict": "what is said of earlier tasks is bit by bit what it was",
    "shared": "what is said of earlier tasks moved a little",
}


def lineage(record: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """Sentences about how a model came to its tasks; none for one that learned all at once from labels.

    Args:
        record: model.json.
        manifest: Of the model, for its time and how far old tasks moved.
    """
    return [*_teacher(record), *_steps(record, manifest)]


def _teacher(record: Mapping[str, Any]) -> list[str]:
    teacher = record.get("teacher")
    if not teacher:
        return []
    rows = [f"{task}: student {found['student']:.4g}, teacher {found['teacher']:.4g}"
            for task, found in teacher["validation"].items()]
    return [f"a student of `{teacher['aggregator']}` ({teacher['model']}), from its answers beside the labels", *rows]


def _steps(record: Mapping[str, Any], manifest: Manifest) -> list[str]:
    lines = []
    for place, step in enumerate(record.get("learned", [])):
        made = datetime.fromisoformat(step.get("made", manifest.created))
        mode = step.get("mode")
        far = f" ({manifest.summary['moved']:.3g} at most)" if mode == "shared" and "made" not in step else ""
        how = f"; {MODES[mode]}{far}" if mode else ""
        lines.append(f"{'first' if place == 0 else 'then'} {', '.join(step['tasks'])}, {made:%Y-%m-%d %H:%M} UTC{how}")
    return lines
