"""The public ops and what carries them: functional (signatures), library (torch registration), backends (who computes)."""
