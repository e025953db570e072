"""Examples that people wrote, read from the formats they have."""
