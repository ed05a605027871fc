"""What is known of a system without simulation."""
