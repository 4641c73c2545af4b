"""What a candidate is judged on: `gpu`, `cpu`, and `fake` for tests and docs."""
