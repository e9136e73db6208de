"""What lies on disk: artifacts, cells, features, bags."""

from milscope.store._manifest import (
    Manifest,
    Stage,
    fingerprint,
    fingerprint_files,
    read_manifest,
    unwritable,
    write_text,
)

__all__ = ["Manifest", "Stage", "fingerprint", "fingerprint_files", "read_manifest", "unwritable", "write_text"]
