"""From samples to estimates with error bars: numbers in, numbers out."""
