"""Evaluation: metrics, inference, report, figures."""
