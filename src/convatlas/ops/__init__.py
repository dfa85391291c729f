"""The public ops: their signatures (functional), their registration with torch (library), and who computes them (backends)."""
