"""Private names of other libraries, one module per library: an upgrade that removes one fails here and nowhere else."""
