"""What a training step costs, and what it would cost on machines that are not there."""
