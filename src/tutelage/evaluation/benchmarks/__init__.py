"""What a benchmark is: its items, the rules of each year, where its files come from, what a result holds."""
