"""What a step does: rows of K, laws of batches, optimisers, sets of matrices."""
