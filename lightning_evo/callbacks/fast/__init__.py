"""Using all of one device: precision, memory formats, compilation, fused optimizers and data loading."""
