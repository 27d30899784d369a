"""Contracts of the package `digits`."""
