"""Evaluation: protocols, metrics, reports and pictures; trained models and their predictions."""
