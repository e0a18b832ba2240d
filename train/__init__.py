"""Trains AFMoE models: YAML -> check -> torchtitan Trainer -> <run>/{metrics.jsonl, checkpoint/} -> export."""
