"""Drives (ATA disk, ATAPI CD) and images (raw, throw-away overlay): what hangs below a controller."""
