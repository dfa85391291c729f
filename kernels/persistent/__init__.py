"""A run of convolutions on small maps as one launch, whose blocks stay and take tasks."""
