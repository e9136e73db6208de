"""milscope."""
