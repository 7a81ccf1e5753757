"""Twins, factories and fixtures that are part of the product."""
