"""What an evaluation says: `metrics` has the numbers, `figures` draws them, and `page` puts them on one page."""
