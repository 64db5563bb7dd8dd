"""What a reader sees of finished runs: headline, plots, tables, HTML, Markdown, terminal, model cards."""
