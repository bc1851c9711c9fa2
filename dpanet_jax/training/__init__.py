"""Training: loop, step, state, losses, optimizer, parallel."""
