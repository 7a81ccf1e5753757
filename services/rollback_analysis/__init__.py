"""Judges releases by what nodes report: evidence, pace, halt."""
