"""The GPU suite, `make gpu`: stages by priority, a time limit each, every result on disk as soon as it is there."""
