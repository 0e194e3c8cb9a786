"""One module a target, or a family of targets; each has TARGETS, by name."""
