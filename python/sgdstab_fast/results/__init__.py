"""What all results share."""
