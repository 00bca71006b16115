"""Agents against each other over seeds and tasks: what a difference is worth."""
