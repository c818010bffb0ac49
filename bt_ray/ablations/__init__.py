"""The paper's ablations: what is varied, trained over seeds, scored, and shown beside the paper."""
