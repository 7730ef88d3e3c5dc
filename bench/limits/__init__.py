"""Bare limits to compare with: the smallest programs that do a part of the work, and Bento."""
