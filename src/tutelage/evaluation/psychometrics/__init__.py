"""Models beside people: reading times and ages of acquisition."""
