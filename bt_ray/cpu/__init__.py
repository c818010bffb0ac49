"""What makes runs on CPUs faster, and nothing else: it may be deleted without a result changing."""
