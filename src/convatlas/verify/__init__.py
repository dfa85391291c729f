"""Runs nets and ops and holds them to the reference (check, verify); reads and classifies pictures (images, classify)."""
