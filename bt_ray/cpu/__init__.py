"""What fits runs to the CPUs that they get: faster, or fewer threads, and never another result."""
